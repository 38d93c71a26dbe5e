package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1alpha2"
)

func info(c *call) error {
	r, err := c.runtime.Status(c.ctx, &cri.StatusRequest{Verbose: true})
	if err != nil {
		return err
	}
	return printJSON(r)
}

func showVersion(c *call) error {
	r, err := c.runtime.Version(c.ctx, &cri.VersionRequest{})
	if err != nil {
		return err
	}
	fmt.Printf("Version:  %s\nRuntimeName:  %s\nRuntimeVersion:  %s\nRuntimeApiVersion:  %s\n",
		r.Version, r.RuntimeName, r.RuntimeVersion, r.RuntimeApiVersion)
	return nil
}

func pull(c *call) error {
	return each(func(c *call, name string) error {
		r, err := c.image.PullImage(c.ctx, &cri.PullImageRequest{Image: &cri.ImageSpec{Image: name}})
		if err == nil {
			fmt.Println("Image is up to date for", r.ImageRef)
		}
		return err
	})(c)
}

func inspectImage(c *call) error {
	return each(func(c *call, name string) error {
		r, err := c.image.ImageStatus(c.ctx, &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: name}, Verbose: true})
		if err != nil {
			return err
		}
		if r.Image == nil {
			return fmt.Errorf("no such image %q present", name)
		}
		return printJSON(r)
	})(c)
}

func images(c *call) error {
	r, err := c.image.ListImages(c.ctx, &cri.ListImagesRequest{})
	if err != nil {
		return err
	}
	if c.flags["o"] == "json" {
		return printJSON(r)
	}
	rows := [][]string{{"IMAGE", "TAG", "IMAGE ID", "SIZE"}}
	for _, image := range r.Images {
		if c.has("q") {
			fmt.Println(image.Id)
			continue
		}
		names := image.RepoTags
		if len(names) == 0 {
			names = []string{"<none>:<none>"}
		}
		for _, name := range names {
			at := strings.LastIndex(name, ":")
			rows = append(rows, []string{name[:at], name[at+1:], short(image.Id), fmt.Sprint(image.Size_)})
		}
	}
	return c.table(rows)
}

func removeImage(c *call, name string) error {
	_, err := c.image.RemoveImage(c.ctx, &cri.RemoveImageRequest{Image: &cri.ImageSpec{Image: name}})
	return err
}

func pods(c *call) error {
	r, err := c.runtime.ListPodSandbox(c.ctx, &cri.ListPodSandboxRequest{})
	if err != nil {
		return err
	}
	rows := [][]string{{"POD ID", "STATE", "NAME", "NAMESPACE", "ATTEMPT"}}
	for _, p := range r.Items {
		if c.has("q") {
			fmt.Println(p.Id)
			continue
		}
		state := strings.TrimPrefix(p.State.String(), "SANDBOX_")
		rows = append(rows, []string{short(p.Id), state, p.Metadata.Name, p.Metadata.Namespace, fmt.Sprint(p.Metadata.Attempt)})
	}
	return c.table(rows)
}

func stopPod(c *call, id string) error {
	_, err := c.runtime.StopPodSandbox(c.ctx, &cri.StopPodSandboxRequest{PodSandboxId: id})
	return err
}

func removePod(c *call, id string) error {
	if c.has("f") {
		if err := stopPod(c, id); err != nil {
			return err
		}
	}
	_, err := c.runtime.RemovePodSandbox(c.ctx, &cri.RemovePodSandboxRequest{PodSandboxId: id})
	return err
}

func containers(c *call) error {
	filter := &cri.ContainerFilter{}
	if !c.has("a") {
		filter.State = &cri.ContainerStateValue{State: cri.ContainerState_CONTAINER_RUNNING}
	}
	r, err := c.runtime.ListContainers(c.ctx, &cri.ListContainersRequest{Filter: filter})
	if err != nil {
		return err
	}
	rows := [][]string{{"CONTAINER", "IMAGE", "STATE", "NAME", "ATTEMPT", "POD ID"}}
	for _, k := range r.Containers {
		if !strings.Contains(k.Metadata.Name, c.flags["name"]) {
			continue
		}
		if c.has("q") {
			fmt.Println(k.Id)
			continue
		}
		state := strings.TrimPrefix(k.State.String(), "CONTAINER_")
		rows = append(rows, []string{short(k.Id), short(k.ImageRef), state, k.Metadata.Name, fmt.Sprint(k.Metadata.Attempt), short(k.PodSandboxId)})
	}
	return c.table(rows)
}

// full returns the id of the one container whose id begins with prefix.
func (c *call) full(prefix string) (string, error) {
	r, err := c.runtime.ListContainers(c.ctx, &cri.ListContainersRequest{Filter: &cri.ContainerFilter{Id: prefix}})
	if err != nil {
		return "", err
	}
	if len(r.Containers) != 1 {
		return "", fmt.Errorf("%d containers have an id that begins with %q", len(r.Containers), prefix)
	}
	return r.Containers[0].Id, nil
}

func stop(c *call, id string) error {
	id, err := c.full(id)
	if err == nil {
		_, err = c.runtime.StopContainer(c.ctx, &cri.StopContainerRequest{ContainerId: id, Timeout: 10})
	}
	return err
}

func remove(c *call, id string) error {
	id, err := c.full(id)
	if err == nil {
		_, err = c.runtime.RemoveContainer(c.ctx, &cri.RemoveContainerRequest{ContainerId: id})
	}
	return err
}

func inspect(c *call, id string) error {
	id, err := c.full(id)
	if err != nil {
		return err
	}
	r, err := c.runtime.ContainerStatus(c.ctx, &cri.ContainerStatusRequest{ContainerId: id, Verbose: true})
	if err != nil {
		return err
	}
	return printJSON(r)
}

// logs prints what the container wrote, without the time, stream and tag that the CRI puts before each line.
func logs(c *call, id string) error {
	id, err := c.full(id)
	if err != nil {
		return err
	}
	r, err := c.runtime.ContainerStatus(c.ctx, &cri.ContainerStatusRequest{ContainerId: id})
	if err != nil {
		return err
	}
	text, err := os.ReadFile(r.Status.LogPath)
	if err != nil {
		return err
	}
	for _, line := range strings.SplitAfter(string(text), "\n") {
		if words := strings.SplitN(line, " ", 4); len(words) == 4 {
			out := io.Writer(os.Stdout)
			if words[1] == "stderr" {
				out = os.Stderr
			}
			fmt.Fprint(out, words[3])
		}
	}
	return nil
}

func (c *call) table(rows [][]string) error {
	if c.has("q") {
		return nil
	}
	w := tabwriter.NewWriter(os.Stdout, 2, 4, 3, ' ', 0)
	for _, row := range rows {
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	return w.Flush()
}

func short(id string) string {
	id = strings.TrimPrefix(id, "sha256:")
	if len(id) > 13 {
		return id[:13]
	}
	return id
}
