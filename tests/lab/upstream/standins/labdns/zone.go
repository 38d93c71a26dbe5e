package main

import (
	"net"
	"strings"
	"time"

	"github.com/miekg/dns"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	listers "k8s.io/client-go/listers/core/v1"
)

const ttl = 30

// authority answers for one cluster's zone, by the naming rules of Kubernetes' DNS specification.
type authority struct {
	zone       string
	services   listers.ServiceLister
	endpoints  listers.EndpointsLister
	namespaces listers.NamespaceLister
}

// target is one address that a Service's name stands for, and the name of its own that it has.
type target struct{ name, ip string }

func (a *authority) ServeDNS(w dns.ResponseWriter, query *dns.Msg) {
	m := new(dns.Msg)
	m.SetReply(query)
	if len(query.Question) != 1 {
		m.Rcode = dns.RcodeFormatError
	} else {
		a.answer(m, query.Question[0])
	}
	w.WriteMsg(m)
}

func (a *authority) answer(m *dns.Msg, q dns.Question) {
	name := strings.ToLower(q.Name)
	reverse := strings.HasSuffix(name, ".in-addr.arpa.")
	if !reverse && !dns.IsSubDomain(a.zone, name) {
		m.Rcode = dns.RcodeServerFailure
		return
	}
	m.Authoritative = true
	found := false
	if reverse {
		found = a.reverse(m, q, name)
	} else {
		found = a.forward(m, q, strings.TrimSuffix(strings.TrimSuffix(name, a.zone), "."))
	}
	if !found {
		m.Rcode = dns.RcodeNameError
	}
	if len(m.Answer) == 0 {
		m.Ns = []dns.RR{a.soa()}
	}
}

func (a *authority) soa() dns.RR {
	return &dns.SOA{Hdr: header(a.zone, dns.TypeSOA), Ns: "ns.dns." + a.zone, Mbox: "hostmaster." + a.zone,
		Serial: uint32(time.Now().Unix()), Refresh: 7200, Retry: 1800, Expire: 86400, Minttl: ttl}
}

// reverse answers PTR questions for the addresses of Services.
func (a *authority) reverse(m *dns.Msg, q dns.Question, name string) bool {
	p := strings.Split(strings.TrimSuffix(name, ".in-addr.arpa."), ".")
	if len(p) != 4 {
		return false
	}
	ip := strings.Join([]string{p[3], p[2], p[1], p[0]}, ".")
	all, _ := a.services.List(labels.Everything())
	for _, s := range all {
		if s.Spec.ClusterIP == ip {
			m.Answer = append(m.Answer, &dns.PTR{Hdr: header(q.Name, dns.TypePTR), Ptr: a.serviceName(s)})
			return true
		}
	}
	return false
}

// forward answers a question for rel, a lower-case name within the zone, and says whether the name exists.
func (a *authority) forward(m *dns.Msg, q dns.Question, rel string) bool {
	p := strings.Split(rel, ".")
	last := p[len(p)-1]
	switch {
	case rel == "" || rel == "svc" || rel == "pod":
		return true
	case rel == "dns-version":
		return txt(m, q, "1.1.0")
	case len(p) == 2 && (last == "svc" || last == "pod"):
		_, err := a.namespaces.Get(p[0])
		return err == nil
	case len(p) == 3 && last == "pod":
		return address(m, q, q.Name, strings.ReplaceAll(p[0], "-", "."))
	case len(p) == 3 && last == "svc":
		return a.service(m, q, p[0], p[1], "")
	case len(p) == 4 && last == "svc":
		return a.service(m, q, p[1], p[2], p[0])
	case len(p) == 5 && last == "svc":
		return a.port(m, q, p[2], p[3], p[0], p[1])
	}
	return false
}

// service answers for SERVICE.NAMESPACE.svc and, with a host, for one endpoint of it.
func (a *authority) service(m *dns.Msg, q dns.Question, name, namespace, host string) bool {
	s, err := a.services.Services(namespace).Get(name)
	if err != nil {
		return false
	}
	if s.Spec.Type == v1.ServiceTypeExternalName {
		m.Answer = append(m.Answer, &dns.CNAME{Hdr: header(q.Name, dns.TypeCNAME), Target: dns.Fqdn(s.Spec.ExternalName)})
		return host == ""
	}
	targets := a.targets(s, host)
	for _, t := range targets {
		address(m, q, q.Name, t.ip)
	}
	return host == "" || len(targets) > 0
}

// port answers SRV questions, _PORT._PROTOCOL.SERVICE.NAMESPACE.svc.
func (a *authority) port(m *dns.Msg, q dns.Question, name, namespace, port, protocol string) bool {
	s, err := a.services.Services(namespace).Get(name)
	if err != nil {
		return false
	}
	for _, p := range s.Spec.Ports {
		if "_"+p.Name != port || "_"+strings.ToLower(string(p.Protocol)) != protocol {
			continue
		}
		for _, t := range a.targets(s, "") {
			if q.Qtype == dns.TypeSRV {
				m.Answer = append(m.Answer, &dns.SRV{Hdr: header(q.Name, dns.TypeSRV), Weight: 100, Port: uint16(p.Port), Target: t.name})
				m.Extra = append(m.Extra, &dns.A{Hdr: header(t.name, dns.TypeA), A: net.ParseIP(t.ip).To4()})
			}
		}
		return true
	}
	return false
}

func (a *authority) serviceName(s *v1.Service) string {
	return s.Name + "." + s.Namespace + ".svc." + a.zone
}

// targets lists what a Service's name stands for: its own address, or its endpoints' if it has none or a host is named.
func (a *authority) targets(s *v1.Service, host string) (found []target) {
	if s.Spec.ClusterIP != v1.ClusterIPNone && host == "" {
		return []target{{a.serviceName(s), s.Spec.ClusterIP}}
	}
	e, err := a.endpoints.Endpoints(s.Namespace).Get(s.Name)
	if err != nil {
		return nil
	}
	for _, subset := range e.Subsets {
		for _, endpoint := range subset.Addresses {
			if name := hostOf(endpoint); host == "" || host == name {
				found = append(found, target{name + "." + a.serviceName(s), endpoint.IP})
			}
		}
	}
	return found
}

func hostOf(e v1.EndpointAddress) string {
	if e.Hostname != "" {
		return e.Hostname
	}
	return strings.ReplaceAll(e.IP, ".", "-")
}

func header(name string, kind uint16) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: kind, Class: dns.ClassINET, Ttl: ttl}
}

func txt(m *dns.Msg, q dns.Question, text string) bool {
	if q.Qtype == dns.TypeTXT {
		m.Answer = append(m.Answer, &dns.TXT{Hdr: header(q.Name, dns.TypeTXT), Txt: []string{text}})
	}
	return true
}

// address adds an A record when the question is for one, and says whether ip is an IPv4 address.
func address(m *dns.Msg, q dns.Question, name, ip string) bool {
	v4 := net.ParseIP(ip).To4()
	if v4 != nil && (q.Qtype == dns.TypeA || q.Qtype == dns.TypeANY) {
		m.Answer = append(m.Answer, &dns.A{Hdr: header(name, dns.TypeA), A: v4})
	}
	return v4 != nil
}
