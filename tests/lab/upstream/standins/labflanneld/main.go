// labflanneld stands in for flannel's flanneld, which Debian does not have: the kube subnet manager and the one of
// etcd, with the host-gw backend, and nothing else. Flags, files, annotations and the failure without a default route are flannel's.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"os"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	listers "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

const (
	version    = "v0.13.0 (lab stand-in, host-gw only)"
	annotation = "flannel.alpha.coreos.com/"
)

type netConf struct {
	Network string
	Backend struct{ Type string }
}

type options struct {
	ipMasq, kubeSubnetMgr, version         bool
	netConf, subnetFile, iface, ifaceRegex string
	publicIP                               string
	etcd                                   etcdOptions
}

func parseFlags() options {
	var o options
	flag.BoolVar(&o.ipMasq, "ip-masq", false, "masquerade what leaves the pod network")
	flag.BoolVar(&o.kubeSubnetMgr, "kube-subnet-mgr", false, "take subnets from the Kubernetes API (required)")
	flag.BoolVar(&o.version, "version", false, "print the version and exit")
	flag.StringVar(&o.netConf, "net-config-path", "/etc/kube-flannel/net-conf.json", "network configuration")
	flag.StringVar(&o.subnetFile, "subnet-file", "/run/flannel/subnet.env", "where the node's subnet is written")
	flag.StringVar(&o.iface, "iface", "", "interface (name or address) between the nodes")
	flag.StringVar(&o.ifaceRegex, "iface-regex", "", "pattern of that interface's address or name")
	flag.StringVar(&o.publicIP, "public-ip", "", "address that the other nodes reach this one by")
	flag.StringVar(&o.etcd.endpoints, "etcd-endpoints", "", "etcd to take subnets from, instead of Kubernetes")
	flag.StringVar(&o.etcd.prefix, "etcd-prefix", "/coreos.com/network", "where in etcd")
	flag.StringVar(&o.etcd.cafile, "etcd-cafile", "", "CA of etcd")
	flag.StringVar(&o.etcd.certfile, "etcd-certfile", "", "certificate for etcd")
	flag.StringVar(&o.etcd.keyfile, "etcd-keyfile", "", "its key")
	flag.Parse()
	given := map[string]bool{}
	flag.Visit(func(f *flag.Flag) { given[f.Name] = true })
	flag.VisitAll(func(f *flag.Flag) { // as flannel does: FLANNELD_IFACE is --iface
		value := os.Getenv("FLANNELD_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_")))
		if value != "" && !given[f.Name] {
			check(f.Value.Set(value), "FLANNELD_ variable for --"+f.Name)
		}
	})
	return o
}

func check(err error, what string) {
	if err != nil {
		log.Fatalf("%s: %v", what, err)
	}
}

func readNetConf(path string) netConf {
	var conf netConf
	text, err := os.ReadFile(path)
	check(err, "failed to read net conf")
	check(json.Unmarshal(text, &conf), "error parsing "+path)
	if conf.Backend.Type != "host-gw" {
		log.Fatalf("%s: backend %q: this stand-in for flannel has only host-gw", path, conf.Backend.Type)
	}
	return conf
}

func nodeName(client kubernetes.Interface) string {
	if name := os.Getenv("NODE_NAME"); name != "" {
		return name
	}
	name, namespace := os.Getenv("POD_NAME"), os.Getenv("POD_NAMESPACE")
	if name == "" || namespace == "" {
		log.Fatal("env variables POD_NAME and POD_NAMESPACE must be set")
	}
	pod, err := client.CoreV1().Pods(namespace).Get(context.TODO(), name, metav1.GetOptions{})
	check(err, fmt.Sprintf("error retrieving pod spec for '%s/%s'", namespace, name))
	return pod.Spec.NodeName
}

// watchNodes returns a lister of nodes, synced, and a channel that says when something about them may have changed.
func watchNodes(client kubernetes.Interface) (listers.NodeLister, <-chan struct{}) {
	changed := make(chan struct{}, 1)
	note := func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	factory := informers.NewSharedInformerFactory(client, 0)
	nodes := factory.Core().V1().Nodes()
	nodes.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(interface{}) { note() },
		UpdateFunc: func(interface{}, interface{}) { note() },
		DeleteFunc: func(interface{}) { note() },
	})
	factory.Start(nil)
	cache.WaitForCacheSync(nil, nodes.Informer().HasSynced)
	return nodes.Lister(), changed
}

// announce writes the annotations by which the other nodes' daemons find this node.
func announce(client kubernetes.Interface, node, publicIP string) {
	patch, _ := json.Marshal(map[string]interface{}{"metadata": map[string]interface{}{"annotations": map[string]string{
		annotation + "backend-data":        "null",
		annotation + "backend-type":        "host-gw",
		annotation + "kube-subnet-manager": "true",
		annotation + "public-ip":           publicIP,
	}}})
	_, err := client.CoreV1().Nodes().Patch(context.TODO(), node, types.StrategicMergePatchType, patch,
		metav1.PatchOptions{}, "status")
	check(err, "failed to annotate node "+node)
}

// wanted returns the routes to every other node that a daemon like this one has announced: podCIDR -> gateway.
func wanted(nodes []*v1.Node, self string) map[string]string {
	routes := map[string]string{}
	for _, n := range nodes {
		a := n.Annotations
		if n.Name != self && n.Spec.PodCIDR != "" && a[annotation+"kube-subnet-manager"] == "true" &&
			a[annotation+"backend-type"] == "host-gw" {
			routes[n.Spec.PodCIDR] = a[annotation+"public-ip"]
		}
	}
	return routes
}

func main() {
	log.SetPrefix("flanneld (lab stand-in): ")
	opts := parseFlags()
	if opts.version {
		fmt.Fprintln(os.Stderr, version)
		return
	}
	if !opts.kubeSubnetMgr {
		runEtcd(opts)
	}
	config, err := rest.InClusterConfig()
	check(err, "unable to initialize inclusterconfig")
	client := kubernetes.NewForConfigOrDie(config)
	self := nodeName(client)
	nodes, changed := watchNodes(client)
	conf := readNetConf(opts.netConf)
	link, err := externalInterface(opts)
	check(err, "Failed to find any valid interface to use")
	log.Printf("%s on %s: interface %s, address %s", version, self, link.name, link.publicIP)
	node, err := nodes.Get(self)
	check(err, "node "+self)
	if node.Spec.PodCIDR == "" {
		log.Fatalf("node %q pod cidr not assigned", self)
	}
	announce(client, self, link.publicIP)
	if opts.ipMasq {
		check(masquerade(conf.Network, node.Spec.PodCIDR), "Failed to setup IPTables")
	}
	check(allowForwarding(conf.Network), "Failed to setup IPTables")
	check(writeSubnetFile(opts.subnetFile, conf.Network, node.Spec.PodCIDR, link.mtu, opts.ipMasq),
		"Failed to write subnet file")
	installed := map[string]string{}
	for tick := time.Tick(10 * time.Second); ; {
		all, err := nodes.List(labels.Everything())
		check(err, "nodes")
		syncRoutes(link, installed, wanted(all, self))
		select {
		case <-changed:
		case <-tick: // what someone else removed comes back
		}
	}
}
