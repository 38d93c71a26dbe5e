// labflannelcni stands in for the `flannel` CNI plugin, which Debian's plugins do not include: reads subnet.env and
// has another plugin (bridge) do the work, with the configuration that flannel's own plugin would give it.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

const about = "flannel CNI plugin v0.8.7 (lab stand-in)"

type object = map[string]interface{}

type conf struct {
	CNIVersion string `json:"cniVersion"`
	Name       string `json:"name"`
	SubnetFile string `json:"subnetFile"`
	DataDir    string `json:"dataDir"`
	Delegate   object `json:"delegate"`
}

func main() {
	if err := run(os.Getenv("CNI_COMMAND")); err != nil {
		json.NewEncoder(os.Stdout).Encode(object{"cniVersion": "0.3.1", "code": 100, "msg": err.Error()})
		os.Exit(1)
	}
}

func run(command string) error {
	if command == "" {
		fmt.Fprintln(os.Stderr, about)
		return nil
	}
	if command == "VERSION" {
		return json.NewEncoder(os.Stdout).Encode(object{"cniVersion": "0.4.0",
			"supportedVersions": []string{"0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0"}})
	}
	c := conf{SubnetFile: "/run/flannel/subnet.env", DataDir: "/var/lib/cni/flannel"}
	if err := json.NewDecoder(os.Stdin).Decode(&c); err != nil {
		return fmt.Errorf("failed to load netconf: %v", err)
	}
	saved := filepath.Join(c.DataDir, os.Getenv("CNI_CONTAINERID"))
	switch command {
	case "ADD":
		return add(c, saved)
	case "DEL":
		return del(saved)
	case "CHECK":
		return nil
	}
	return fmt.Errorf("unknown CNI_COMMAND: %s", command)
}

func add(c conf, saved string) error {
	env, err := readSubnet(c.SubnetFile)
	if err != nil {
		return err
	}
	d, err := delegate(c, env)
	if err != nil {
		return err
	}
	text, err := json.Marshal(d)
	if err != nil {
		return err
	}
	// DEL must undo what ADD did, even after the subnet changed: it reads this file.
	if err := os.MkdirAll(filepath.Dir(saved), 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(saved, text, 0o600); err != nil {
		return err
	}
	return invoke(text)
}

func del(saved string) error {
	text, err := os.ReadFile(saved)
	if errors.Is(err, os.ErrNotExist) {
		return nil // already undone: DEL may come twice
	}
	if err != nil {
		return err
	}
	if err := invoke(text); err != nil {
		return err
	}
	return os.Remove(saved)
}

// delegate is the configuration of the plugin that does the work: what the user gave, completed from subnet.env.
func delegate(c conf, env map[string]string) (object, error) {
	_, subnet, err := net.ParseCIDR(env["FLANNEL_SUBNET"]) // the file has the gateway's address, host-local wants the network's
	if err != nil {
		return nil, err
	}
	d := object{}
	for k, v := range c.Delegate {
		d[k] = v
	}
	fill := func(key string, value interface{}) {
		if _, given := d[key]; !given {
			d[key] = value
		}
	}
	d["name"], d["cniVersion"] = c.Name, c.CNIVersion
	fill("type", "bridge")
	fill("ipMasq", env["FLANNEL_IPMASQ"] != "true") // flanneld masquerades, or bridge does
	if mtu, err := strconv.Atoi(env["FLANNEL_MTU"]); err == nil {
		fill("mtu", mtu)
	}
	if d["type"] == "bridge" {
		fill("isGateway", true)
	}
	d["ipam"] = object{"type": "host-local", "subnet": subnet.String(),
		"routes": []object{{"dst": env["FLANNEL_NETWORK"]}}}
	return d, nil
}

func readSubnet(path string) (map[string]string, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("loadFlannelSubnetEnv failed: %v", err)
	}
	defer file.Close()
	env := map[string]string{}
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if key, value, ok := strings.Cut(lines.Text(), "="); ok {
			env[key] = value
		}
	}
	for _, key := range []string{"FLANNEL_NETWORK", "FLANNEL_SUBNET", "FLANNEL_MTU", "FLANNEL_IPMASQ"} {
		if env[key] == "" {
			return nil, fmt.Errorf("%s is missing %s", path, key)
		}
	}
	return env, nil
}

// invoke runs the plugin that text names with this process's own CNI_ variables; its answer is ours.
func invoke(text []byte) error {
	var named struct{ Type string }
	if err := json.Unmarshal(text, &named); err != nil {
		return err
	}
	for _, directory := range filepath.SplitList(os.Getenv("CNI_PATH")) {
		path := filepath.Join(directory, named.Type)
		if _, err := os.Stat(path); err != nil {
			continue
		}
		plugin := exec.Command(path)
		plugin.Stdin, plugin.Stdout, plugin.Stderr = strings.NewReader(string(text)), os.Stdout, os.Stderr
		if err := plugin.Run(); err != nil {
			if exit := new(exec.ExitError); errors.As(err, &exit) {
				os.Exit(exit.ExitCode()) // its error is on our stdout already
			}
			return err
		}
		return nil
	}
	return fmt.Errorf("failed to find plugin %q in path %s", named.Type, os.Getenv("CNI_PATH"))
}
