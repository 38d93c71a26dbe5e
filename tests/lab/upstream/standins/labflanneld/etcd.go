package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"path"
	"strings"
	"time"
)

// etcdOptions are those of flannel's etcd subnet manager, which talks to etcd's version 2 API.
type etcdOptions struct{ endpoints, prefix, cafile, certfile, keyfile string }

type lease struct {
	PublicIP, BackendType string
}

type etcdNode struct {
	Key, Value string
	Nodes      []etcdNode
}

type keys struct {
	client *http.Client
	base   string
}

func newKeys(o etcdOptions) keys {
	pair, err := tls.LoadX509KeyPair(o.certfile, o.keyfile)
	check(err, "etcd client certificate")
	ca, err := os.ReadFile(o.cafile)
	check(err, "etcd CA")
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	transport := &http.Transport{TLSClientConfig: &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: pool}}
	base := strings.Split(o.endpoints, ",")[0] + "/v2/keys" + o.prefix
	return keys{&http.Client{Transport: transport, Timeout: 5 * time.Second}, base}
}

// do returns the node that an operation on a key names, and the answer's status.
func (k keys) do(method, key string, form url.Values) (etcdNode, int, error) {
	request, _ := http.NewRequest(method, k.base+key, strings.NewReader(form.Encode()))
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	reply, err := k.client.Do(request)
	if err != nil {
		return etcdNode{}, 0, err
	}
	defer reply.Body.Close()
	text, _ := io.ReadAll(reply.Body)
	var found struct{ Node etcdNode }
	err = json.Unmarshal(text, &found)
	return found.Node, reply.StatusCode, err
}

// leases returns who has which subnet: cidr -> address.
func (k keys) leases() (map[string]string, error) {
	dir, code, err := k.do("GET", "/subnets", nil)
	if err != nil || code == http.StatusNotFound {
		return map[string]string{}, err
	}
	held := map[string]string{}
	for _, n := range dir.Nodes {
		var l lease
		if json.Unmarshal([]byte(n.Value), &l) == nil {
			held[strings.ReplaceAll(path.Base(n.Key), "-", "/")] = l.PublicIP
		}
	}
	return held, nil
}

// acquire returns this host's subnet: the one that it has, or the first free /24 of the network.
func (k keys) acquire(network, publicIP string) string {
	held, err := k.leases()
	check(err, "subnets")
	for cidr, owner := range held {
		if owner == publicIP {
			return cidr
		}
	}
	_, all, err := net.ParseCIDR(network)
	check(err, "Network")
	value, _ := json.Marshal(lease{publicIP, "host-gw"})
	for i := byte(1); i < 255; i++ {
		base := net.IPv4(all.IP[0], all.IP[1], all.IP[2]+i, 0)
		key := fmt.Sprintf("/subnets/%s-24", base)
		_, code, err := k.do("PUT", key, url.Values{"value": {string(value)}, "prevExist": {"false"}, "ttl": {"86400"}})
		check(err, "lease")
		if code == http.StatusCreated {
			return base.String() + "/24"
		}
	}
	log.Fatal("no free subnet")
	return ""
}

// runEtcd is flanneld without Kubernetes: the network from etcd, a lease there, routes to the others.
func runEtcd(opts options) {
	k := newKeys(opts.etcd)
	node, code, err := k.do("GET", "/config", nil)
	check(err, "config")
	var conf netConf
	if code != http.StatusOK || json.Unmarshal([]byte(node.Value), &conf) != nil || conf.Backend.Type != "host-gw" {
		log.Fatalf("%s/config: %q: this stand-in for flannel has only host-gw", opts.etcd.prefix, node.Value)
	}
	link, err := externalInterface(opts)
	check(err, "Failed to find any valid interface to use")
	subnet := k.acquire(conf.Network, link.publicIP)
	log.Printf("%s: interface %s, address %s, subnet %s", version, link.name, link.publicIP, subnet)
	if opts.ipMasq {
		check(masquerade(conf.Network, subnet), "Failed to setup IPTables")
	}
	check(allowForwarding(conf.Network), "Failed to setup IPTables")
	check(writeSubnetFile(opts.subnetFile, conf.Network, subnet, link.mtu, opts.ipMasq), "Failed to write subnet file")
	ready()
	installed := map[string]string{}
	for ; ; time.Sleep(time.Second) {
		held, err := k.leases()
		if err != nil {
			log.Printf("subnets: %v", err)
			continue
		}
		delete(held, subnet)
		syncRoutes(link, installed, held)
	}
}

// ready tells systemd, as a service of Type=notify must.
func ready() {
	if socket := os.Getenv("NOTIFY_SOCKET"); socket != "" {
		connection, err := net.Dial("unixgram", socket)
		check(err, "NOTIFY_SOCKET")
		fmt.Fprint(connection, "READY=1")
		connection.Close()
	}
}
