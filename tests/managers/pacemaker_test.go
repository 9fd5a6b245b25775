package managers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"duet/tests/cluster"
)

// pacemakers is two machines with corosync and Pacemaker.
type pacemakers struct{ *machines }

// corosyncConf has a short token, for the test's sake. With two nodes each of them goes on alone: who is right is not corosync's to say here.
const corosyncConf = `totem {
 version: 2
 cluster_name: duet
 transport: udpu
 token: 2000
}
logging {
 to_syslog: no
}
quorum {
 provider: corosync_votequorum
 two_node: 1
 wait_for_all: 0
}
system {
 sched_rr: no
 move_to_root_cgroup: no
}
nodelist {
 node {
  ring0_addr: 10.99.0.1
  name: a
  nodeid: 1
 }
 node {
  ring0_addr: 10.99.0.2
  name: b
  nodeid: 2
 }
}
`

// cloneXML is the clone of docs/MANAGERS.md, with shorter intervals.
const cloneXML = `<resources><clone id="r0-clone"><meta_attributes id="r0-clone-meta">
<nvpair id="m1" name="promotable" value="true"/><nvpair id="m2" name="promoted-max" value="1"/><nvpair id="m3" name="clone-max" value="2"/>
<nvpair id="m4" name="notify" value="true"/><nvpair id="m5" name="interleave" value="true"/><nvpair id="m6" name="failure-timeout" value="10s"/>
</meta_attributes><primitive id="r0" class="ocf" provider="duet" type="duet">
<instance_attributes id="r0-params"><nvpair id="i1" name="resource" value="r0"/>
<nvpair id="i2" name="binary" value="%s"/>
<nvpair id="i3" name="dir" value="/run/duet"/></instance_attributes>
<operations><op id="o1" name="monitor" interval="2s" role="Promoted" timeout="60s"/><op id="o2" name="monitor" interval="3s" role="Unpromoted" timeout="60s"/>
<op id="o3" name="start" interval="0" timeout="60s"/><op id="o4" name="stop" interval="0" timeout="60s"/>
<op id="o5" name="promote" interval="0" timeout="60s"/><op id="o6" name="demote" interval="0" timeout="60s"/></operations>
</primitive></clone></resources>
`

func (s *scenario) pacemakers() *pacemakers {
	s.t.Helper()
	needs(s.t, "pacemakerd", "corosync", "cibadmin", "crm_mon", "crm_attribute")
	p := &pacemakers{s.machines("pcmk")}
	for _, n := range s.DataNodes() {
		p.write(n, "corosync/corosync.conf", corosyncConf)
	}
	if err := os.WriteFile(p.cib(), fmt.Appendf(nil, cloneXML, duetPath(s.t)), 0o644); err != nil {
		s.t.Fatal(err)
	}
	return p
}

func (p *pacemakers) cib() string { return filepath.Join(p.s.dir, "resources.xml") }

// begin boots a machine with both daemons. Pacemaker waits for corosync by itself.
func (p *pacemakers) begin(n *cluster.Node) {
	p.s.t.Helper()
	p.boot(n, `for d in /dev/shm /var/lib/pacemaker /var/lib/corosync /var/log/pacemaker /usr/lib/ocf/resource.d; do
	mount -t tmpfs none "$d"
done
mkdir -p /run/duet /usr/lib/ocf/resource.d/duet /run/lock /run/crm /run/resource-agents
mount --bind "$3" /run/duet
for d in cib cores pengine blackbox; do mkdir -p "/var/lib/pacemaker/$d"; done
cp "`+agentPath(p.s.t)+`" /usr/lib/ocf/resource.d/duet/duet
chown -R hacluster:haclient /var/lib/pacemaker /run/crm /var/log/pacemaker
export PCMK_logfile="`+p.logPath(n)+`"
corosync -f &
exec pacemakerd`)
}

// waitFor waits until crm_mon on a node says all of it.
func (p *pacemakers) waitFor(n *cluster.Node, words ...string) {
	p.s.t.Helper()
	p.s.within(func(ctx context.Context) error {
		return cluster.WaitFor(ctx, fmt.Sprintf("Pacemaker on %s to say %q", n.Name, words), func() error {
			said, err := p.enter(ctx, n, "crm_mon", "-1")
			for _, word := range words {
				if !strings.Contains(said, word) {
					return errors.Join(fmt.Errorf("it says %s", said), err)
				}
			}
			return nil
		})
	})
}

// other is the other data node.
func (s *scenario) other(n *cluster.Node) *cluster.Node {
	if n.Name == "a" {
		return s.Node("b")
	}
	return s.Node("a")
}

// Debian's Pacemaker, on two machines of its own, manages the clone: it promotes one node, the other one when a daemon has died and
// when a machine has, and when its link is cut and it wants a second Primary, it does not get one. There is no STONITH: duet is what keeps
// the data whole.
func TestPacemaker(t *testing.T) {
	t.Parallel() // it waits most of its time
	s := start(t, "manual")
	p := s.pacemakers()
	for _, n := range s.DataNodes() {
		p.begin(n)
	}
	p.waitFor(s.Node("a"), "Online: [ a b ]")
	p.waitFor(s.Node("b"), "Online: [ a b ]")
	p.mustEnter(s.Node("a"), "crm_attribute", "-t", "crm_config", "-n", "stonith-enabled", "-v", "false")
	p.mustEnter(s.Node("a"), "cibadmin", "--replace", "-o", "resources", "-x", p.cib())

	first := s.Node(s.until(s.Node("a"), "a Primary", func(r *cluster.Resource) error {
		if r.Primary == "" {
			return errors.New("there is none")
		}
		return nil
	}).Primary)
	second := s.other(first)
	p.waitFor(first, "Promoted: [ "+first.Name+" ]", "Unpromoted: [ "+second.Name+" ]")
	l := s.ledger()
	l.write(first, 300)

	t.Logf("the daemon of %s dies", first.Name)
	s.kill(first)
	s.waitRole(second, "Primary")
	l.verify(second)
	l.write(second, 300)
	s.restart(first)
	s.inSync()
	p.waitFor(second, "Promoted: [ "+second.Name+" ]", "Unpromoted: [ "+first.Name+" ]")

	t.Logf("the machine of %s dies", second.Name)
	s.kill(second)
	p.crash(second)
	s.waitRole(first, "Primary")
	l.verify(first)
	l.write(first, 300)
	s.restart(second)
	s.inSync()
	p.begin(second)
	p.waitFor(first, "Promoted: [ "+first.Name+" ]", "Unpromoted: [ "+second.Name+" ]")
	p.waitFor(second, "Promoted: [ "+first.Name+" ]", "Unpromoted: [ "+second.Name+" ]")

	t.Logf("the link is cut while %s is Primary", first.Name)
	run(t, "ip", "-n", p.namespace(second), "link", "set", "link0", "down")
	p.waitFor(second, first.Name+" is Primary of r0 and answers")
	l.write(first, 300)
	s.waitRole(second, "Secondary")
	s.waitRole(first, "Primary")
	s.inSync()
	l.verify(first)
}
