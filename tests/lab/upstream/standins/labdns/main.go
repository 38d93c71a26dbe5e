// labdns stands in for CoreDNS 1.7.0, which Debian does not have: enough of it that kubeadm's coredns add-on runs
// unchanged. It takes -conf FILE, of which it reads the zone of the "kubernetes" line, answers for Services, endpoints
// and pods in that zone, and serves :8080/health and :8181/ready. What lies outside the zone is SERVFAIL: the lab's
// nodes have no DNS server to forward to.
package main

import (
	"bufio"
	"flag"
	"fmt"
	"log"
	"net/http"
	"os"
	"strings"
	"sync/atomic"

	"github.com/miekg/dns"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

const version = "CoreDNS-1.7.0 (lab stand-in)"

var ready int32

func zoneOf(path string) string {
	file, err := os.Open(path)
	if err != nil {
		log.Fatal(err)
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if words := strings.Fields(lines.Text()); len(words) > 1 && words[0] == "kubernetes" {
			return dns.Fqdn(words[1])
		}
	}
	log.Fatalf("%s: no line `kubernetes ZONE`", path)
	return ""
}

func serveHealth() {
	go func() {
		log.Fatal(http.ListenAndServe(":8080", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, "OK")
		})))
	}()
	go func() {
		log.Fatal(http.ListenAndServe(":8181", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			if atomic.LoadInt32(&ready) == 0 {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
			fmt.Fprint(w, "OK")
		})))
	}()
}

func main() {
	conf := flag.String("conf", "Corefile", "Corefile")
	show := flag.Bool("version", false, "print the version and exit")
	flag.Parse()
	if *show {
		fmt.Println(version)
		return
	}
	serveHealth()
	config, err := rest.InClusterConfig()
	if err != nil {
		log.Fatal(err)
	}
	factory := informers.NewSharedInformerFactory(kubernetes.NewForConfigOrDie(config), 0)
	core := factory.Core().V1()
	a := &authority{zone: zoneOf(*conf), services: core.Services().Lister(), endpoints: core.Endpoints().Lister(),
		namespaces: core.Namespaces().Lister()}
	synced := []cache.InformerSynced{core.Services().Informer().HasSynced, core.Endpoints().Informer().HasSynced,
		core.Namespaces().Informer().HasSynced}
	factory.Start(nil)
	cache.WaitForCacheSync(nil, synced...)
	atomic.StoreInt32(&ready, 1)
	log.Printf("%s: serving %s", version, a.zone)
	dns.Handle(".", a)
	for _, network := range []string{"tcp", "udp"} {
		network := network
		go func() { log.Fatal((&dns.Server{Addr: ":53", Net: network}).ListenAndServe()) }()
	}
	select {}
}
