// labcrictl stands in for crictl 1.13.0 (cri-tools), which Debian does not have: the verbs that kubeadm 1.20 runs and
// that a person looks around with. It speaks the CRI v1alpha2.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1alpha2"
)

const (
	version = "crictl version v1.13.0 (lab stand-in)"
	usage   = `usage: crictl [--runtime-endpoint|-r ENDPOINT] [--version] VERB [ARGUMENT...]   (a lab stand-in for crictl)
verbs: info version | pull inspecti images rmi | pods stopp rmp | ps stop rm inspect logs
options of images, pods, ps: -q; of ps: -a, --name NAME; of inspect, inspecti, info: -o json`
)

// call is one command line, connected.
type call struct {
	ctx     context.Context
	runtime cri.RuntimeServiceClient
	image   cri.ImageServiceClient
	flags   map[string]string
	args    []string
}

var verbs = map[string]func(*call) error{
	"info": info, "version": showVersion,
	"pull": pull, "inspecti": inspectImage, "images": images, "img": images, "rmi": each(removeImage),
	"pods": pods, "stopp": each(stopPod), "rmp": each(removePod),
	"ps": containers, "stop": each(stop), "rm": each(remove), "inspect": each(inspect), "logs": each(logs),
}

// parse splits a command line into flags (with their values, or empty) and the other words.
func parse(words []string) (flags map[string]string, args []string, err error) {
	valued := map[string]string{"r": "r", "runtime-endpoint": "r", "i": "i", "image-endpoint": "i", "name": "name",
		"o": "o", "output": "o", "c": "c", "config": "c", "t": "t", "timeout": "t"}
	plain := map[string]string{"q": "q", "quiet": "q", "a": "a", "all": "a", "version": "version", "v": "version",
		"h": "help", "help": "help", "D": "D", "debug": "D", "no-trunc": "no-trunc", "f": "f", "force": "f"}
	flags = map[string]string{}
	for i := 0; i < len(words); i++ {
		if !strings.HasPrefix(words[i], "-") {
			args = append(args, words[i])
			continue
		}
		name, value, given := strings.Cut(strings.TrimLeft(words[i], "-"), "=")
		if key, ok := plain[name]; ok {
			flags[key] = ""
			continue
		}
		key, ok := valued[name]
		if !ok {
			return nil, nil, fmt.Errorf("flag provided but not defined (in this lab stand-in): %s", words[i])
		}
		if !given {
			if i++; i == len(words) {
				return nil, nil, fmt.Errorf("flag needs an argument: %s", words[i-1])
			}
			value = words[i]
		}
		flags[key] = value
	}
	return flags, args, nil
}

// endpoint takes the socket from -r, the environment, /etc/crictl.yaml or, last, where containerd has it.
func endpoint(flags map[string]string) string {
	if flags["r"] != "" {
		return flags["r"]
	}
	if e := os.Getenv("CONTAINER_RUNTIME_ENDPOINT"); e != "" {
		return e
	}
	text, _ := os.ReadFile("/etc/crictl.yaml")
	for _, line := range strings.Split(string(text), "\n") {
		if key, value, ok := strings.Cut(line, ":"); ok && key == "runtime-endpoint" {
			return strings.Trim(value, ` "'`)
		}
	}
	return "unix:///run/containerd/containerd.sock"
}

func run(words []string, out io.Writer) error {
	flags, args, err := parse(words)
	if err != nil {
		return err
	}
	if _, ok := flags["version"]; ok {
		fmt.Fprintln(out, version)
		return nil
	}
	if _, ok := flags["help"]; ok || len(args) == 0 {
		fmt.Fprintln(out, usage)
		return nil
	}
	verb := verbs[args[0]]
	if verb == nil {
		return fmt.Errorf("unknown verb %q\n%s", args[0], usage)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	dial, stop := context.WithTimeout(ctx, 5*time.Second)
	defer stop()
	target := endpoint(flags)
	if strings.HasPrefix(target, "/") {
		target = "unix://" + target
	}
	connection, err := grpc.DialContext(dial, target, grpc.WithInsecure(), grpc.WithBlock())
	if err != nil {
		return fmt.Errorf("connect endpoint '%s', make sure you are running as root and the endpoint has been started: %v", target, err)
	}
	return verb(&call{ctx, cri.NewRuntimeServiceClient(connection), cri.NewImageServiceClient(connection), flags, args[1:]})
}

func (c *call) has(flag string) bool {
	_, ok := c.flags[flag]
	return ok
}

// each runs a verb of one argument for every argument.
func each(verb func(*call, string) error) func(*call) error {
	return func(c *call) error {
		if len(c.args) == 0 {
			return errors.New("ID cannot be empty")
		}
		for _, id := range c.args {
			if err := verb(c, id); err != nil {
				return err
			}
		}
		return nil
	}
}

func printJSON(v interface{}) error {
	encoder := json.NewEncoder(os.Stdout)
	encoder.SetIndent("", "  ")
	return encoder.Encode(v)
}

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "FATA", err)
		os.Exit(1)
	}
}
