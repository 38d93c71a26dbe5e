package main

import (
	"errors"
	"fmt"
	"log"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/vishvananda/netlink"
)

// external is the interface that carries the traffic between nodes.
type external struct {
	name, publicIP string
	index, mtu     int
}

// externalInterface finds it by address, by name, by pattern or, like flannel, as that of the default route.
func externalInterface(o options) (external, error) {
	var match func(link, address string) bool
	switch {
	case o.iface != "":
		match = func(link, address string) bool { return link == o.iface || address == o.iface }
	case o.ifaceRegex != "":
		re, err := regexp.Compile(o.ifaceRegex)
		if err != nil {
			return external{}, err
		}
		match = func(link, address string) bool { return re.MatchString(address) || re.MatchString(link) }
	default:
		name, err := defaultInterface()
		if err != nil {
			return external{}, fmt.Errorf("failed to get default interface: %v", err)
		}
		match = func(link, _ string) bool { return link == name }
	}
	return firstInterface(match, o.publicIP)
}

func defaultInterface() (string, error) {
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return "", err
	}
	for _, r := range routes {
		if r.Dst == nil || r.Dst.String() == "0.0.0.0/0" {
			link, err := netlink.LinkByIndex(r.LinkIndex)
			if err != nil {
				return "", err
			}
			return link.Attrs().Name, nil
		}
	}
	return "", errors.New("Unable to find default route")
}

func firstInterface(match func(link, address string) bool, publicIP string) (external, error) {
	links, err := net.Interfaces()
	if err != nil {
		return external{}, err
	}
	for _, link := range links {
		addresses, err := link.Addrs()
		if err != nil {
			return external{}, err
		}
		for _, a := range addresses {
			ip, _, _ := net.ParseCIDR(a.String())
			if ip.To4() == nil || !match(link.Name, ip.String()) {
				continue
			}
			if publicIP == "" {
				publicIP = ip.String()
			}
			return external{link.Name, publicIP, link.Index, link.MTU}, nil
		}
	}
	return external{}, errors.New("no interface with an IPv4 address matches")
}

// syncRoutes makes the routes (podCIDR -> gateway) of installed those of want, and repairs them.
func syncRoutes(link external, installed, want map[string]string) {
	for cidr, gateway := range want {
		if err := netlink.RouteReplace(route(link, cidr, gateway)); err != nil {
			log.Printf("Error adding route to %s via %s: %v", cidr, gateway, err)
			continue
		}
		if installed[cidr] != gateway {
			log.Printf("Route to %s via %s dev %s", cidr, gateway, link.name)
			installed[cidr] = gateway
		}
	}
	for cidr, gateway := range installed {
		if _, ok := want[cidr]; !ok {
			log.Printf("Removing the route to %s: %v", cidr, netlink.RouteDel(route(link, cidr, gateway)))
			delete(installed, cidr)
		}
	}
}

func route(link external, cidr, gateway string) *netlink.Route {
	_, subnet, err := net.ParseCIDR(cidr)
	check(err, "podCIDR")
	return &netlink.Route{Dst: subnet, Gw: net.ParseIP(gateway), LinkIndex: link.index}
}

// masquerade has what leaves the pod network leave it with the node's address.
func masquerade(network, subnet string) error {
	return ensureRules("nat", "POSTROUTING", []string{
		"-s " + network + " -d " + network + " -j RETURN",
		"-s " + network + " ! -d 224.0.0.0/4 -j MASQUERADE --random-fully",
		"! -s " + network + " -d " + subnet + " -j RETURN",
		"! -s " + network + " -d " + network + " -j MASQUERADE --random-fully",
	})
}

func allowForwarding(network string) error {
	return ensureRules("filter", "FORWARD", []string{"-s " + network + " -j ACCEPT", "-d " + network + " -j ACCEPT"})
}

func ensureRules(table, chain string, rules []string) error {
	for _, rule := range rules {
		if iptables(table, "-C", chain, rule) == nil {
			continue
		}
		if err := iptables(table, "-A", chain, rule); err != nil {
			return err
		}
	}
	return nil
}

func iptables(table, verb, chain, rule string) error {
	words := append([]string{"-w", "-t", table, verb, chain}, strings.Fields(rule)...)
	out, err := exec.Command("iptables", words...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("iptables %s: %v: %s", strings.Join(words, " "), err, out)
	}
	return nil
}

// writeSubnetFile tells the CNI plugin the node's subnet; whole or not at all.
func writeSubnetFile(path, network, podCIDR string, mtu int, ipMasq bool) error {
	ip, subnet, err := net.ParseCIDR(podCIDR)
	if err != nil {
		return err
	}
	first := ip.Mask(subnet.Mask).To4()
	first[3]++
	ones, _ := subnet.Mask.Size()
	text := fmt.Sprintf("FLANNEL_NETWORK=%s\nFLANNEL_SUBNET=%s/%d\nFLANNEL_MTU=%d\nFLANNEL_IPMASQ=%v\n",
		network, first, ones, mtu, ipMasq)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	temporary := filepath.Join(filepath.Dir(path), "."+filepath.Base(path))
	if err := os.WriteFile(temporary, []byte(text), 0o644); err != nil {
		return err
	}
	return os.Rename(temporary, path)
}
