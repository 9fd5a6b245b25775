package replication

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// factsOf are the facts about peer b of the Primary a in generation 10: b was in the set from 4 to 7, and a's bitmap has
// everything since then.
func factsOf(change func(f *sourceFacts)) sourceFacts {
	f := sourceFacts{
		configuration: &Configuration{SizeBytes: 1 << 20, Generation: 10, Primary: "a", InSync: []string{"a"},
			Replicas: []Replica{{Node: "a", AdmittedAt: 1}, {Node: "b", Slot: 1, AdmittedAt: 4, LeftAt: 7, AdmittedBoot: "boot"}}},
		selfInSync: true, slot: 1, dirty: 20,
		peer: hello{From: "b", BootID: "boot", DiskState: "Outdated", SizeBytes: 1 << 20, Promised: 6, LastInSync: 6, DirtyBlocks: 5},
	}
	f.local.Peers[1] = SuperblockPeer{Name: "b", CompleteSince: 7}
	change(&f)
	return f
}

// member puts b into the in-sync set.
func (f *sourceFacts) member() {
	f.configuration.InSync = []string{"a", "b"}
	f.configuration.Replicas[1].LeftAt = 0
	f.peer.DiskState = "UpToDate"
}

// neverIn makes b a replica that was never in the in-sync set.
func (f *sourceFacts) neverIn() {
	f.configuration.Replicas[1] = Replica{Node: "b", Slot: 1}
	f.peer.LastInSync, f.local.Peers[1].CompleteSince = 0, 0
}

// forkedOff makes b the former Primary: a, which had left in 4, was forced in 8.
func (f *sourceFacts) forkedOff() {
	f.configuration.ForcedAt = 8
	f.configuration.Replicas[0].AdmittedAt = 8
	b := &f.configuration.Replicas[1]
	b.AdmittedAt, b.LeftAt, b.Fork = 1, 8, Fork{At: 8, Peer: "a", Base: 4}
	f.local.Peers[1].CompleteSince, f.peer.CompleteSince = 8, 4
}

// givenUp is that, after the operator has decided for a.
func (f *sourceFacts) givenUp() {
	f.forkedOff()
	f.configuration.Replicas[1].Discard.At = 9
}

// forcedInVain makes b the one that was forced in 8 and is given up: a, which was in sync until then, is kept.
func (f *sourceFacts) forcedInVain() {
	f.givenUp()
	f.configuration.ForcedAt = 9
	f.configuration.Replicas[0].AdmittedAt = 9
	b := &f.configuration.Replicas[1]
	b.AdmittedAt, b.LeftAt, b.Fork.Forced = 8, 9, true
	f.local.Peers[1].CompleteSince, f.peer.CompleteSince = 4, 8
}

var sourceCases = []struct {
	name       string
	change     func(f *sourceFacts)
	action     action
	supersedes bool
}{
	{"fresh pair, both disks new", func(f *sourceFacts) {
		f.member()
		f.peer.JustCreated, f.peer.Promised, f.peer.LastInSync = true, 1, 1
	}, actionJoin, false},
	{"fresh replica beside an old one", func(f *sourceFacts) { f.neverIn(); f.peer.JustCreated = true }, actionFull, false},
	{"fresh replica on a disk that held something", func(f *sourceFacts) { f.neverIn() }, actionFull, false},
	{"reconnected in sync", func(f *sourceFacts) { f.member() }, actionJoin, false},
	{"in sync, this node diskless", func(f *sourceFacts) { f.member(); f.diskless = true }, actionJoin, false},
	{"left under this Primary", func(f *sourceFacts) { f.known = true }, actionBitmap, true},
	{"left under this Primary, its own bits lag behind", func(f *sourceFacts) { f.known, f.peer.DirtyBlocks = true, 21 }, actionBitmap, false},
	{"left under an earlier Primary", func(f *sourceFacts) {}, actionBitmap, false},
	{"left before this bitmap began", func(f *sourceFacts) { f.local.Peers[1].CompleteSince = 8 }, actionFull, false},
	{"left, no bitmap", func(f *sourceFacts) { f.local.Peers[1].CompleteSince = 0 }, actionFull, false},
	{"left, the bitmap is of who had the slot before", func(f *sourceFacts) { f.local.Peers[1].Name = "c" }, actionFull, false},
	{"left, slot out of range", func(f *sourceFacts) { f.slot = len(f.local.Peers) }, actionFull, false},
	{"missed the end of its second resync", func(f *sourceFacts) {
		f.known, f.peer.Inconsistent, f.peer.DiskState, f.peer.LastInSync = true, true, "Inconsistent", 2
	}, actionBitmap, true},
	{"missed the end of its first resync, and left again", func(f *sourceFacts) {
		f.known, f.peer.Inconsistent, f.peer.DiskState, f.peer.LastInSync = true, true, "Inconsistent", 0
	}, actionFull, false},
	{"missed that it was admitted", func(f *sourceFacts) { f.member(); f.peer.Inconsistent, f.peer.DiskState = true, "Inconsistent" }, actionNone, false},
	{"first resync interrupted", func(f *sourceFacts) {
		f.neverIn()
		f.known, f.peer.Inconsistent, f.peer.DiskState = true, true, "Inconsistent"
	}, actionBitmap, true},
	{"first resync interrupted, the Primary is another one", func(f *sourceFacts) {
		f.neverIn()
		f.peer.Inconsistent, f.peer.DiskState = true, "Inconsistent"
	}, actionFull, false},
	{"first resync interrupted, an old disk restored", func(f *sourceFacts) {
		f.neverIn()
		f.known, f.peer.Inconsistent, f.peer.DiskState, f.peer.DirtyBlocks = true, true, "Inconsistent", 256
	}, actionBitmap, false},
	{"first resync interrupted, an empty disk in its place", func(f *sourceFacts) { f.neverIn(); f.known, f.peer.JustCreated = true, true }, actionFull, false},
	{"later resync interrupted", func(f *sourceFacts) { f.known, f.peer.Inconsistent, f.peer.DiskState = true, true, "Inconsistent" }, actionBitmap, true},
	{"later resync interrupted, the Primary is another one", func(f *sourceFacts) { f.peer.Inconsistent, f.peer.DiskState = true, "Inconsistent" }, actionBitmap, false},
	{"crashed Primary returns with writes of its own", func(f *sourceFacts) { f.peer.Promised, f.peer.LastInSync, f.peer.DirtyBlocks = 9, 6, 200 }, actionBitmap, false},
	{"both crashed, the other was promoted alone", func(f *sourceFacts) { f.peer.BootID = "another" }, actionBitmap, false},
	{"both machines crashed, the record still has both", func(f *sourceFacts) { f.member(); f.peer.BootID = "another" }, actionNone, false},
	{"the same, but acknowledged was durable", func(f *sourceFacts) {
		f.member()
		f.peer.BootID, f.configuration.AckDurable = "another", true
	}, actionJoin, false},
	{"restarted, the record has no boot id", func(f *sourceFacts) {
		f.member()
		f.peer.BootID, f.configuration.Replicas[1].AdmittedBoot = "another", ""
	}, actionJoin, false},
	{"older copy with its metadata", func(f *sourceFacts) { f.peer.Promised, f.peer.LastInSync = 3, 3 }, actionBitmap, false},
	{"newer copy", func(f *sourceFacts) { f.peer.Promised = 11 }, actionRefuse, false},
	{"newer copy, in the set", func(f *sourceFacts) { f.member(); f.peer.Promised = 11 }, actionRefuse, false},
	{"foreign copy", func(f *sourceFacts) { f.peer.From = "c" }, actionRefuse, false},
	{"restored old disk, out of the set", func(f *sourceFacts) {
		f.known, f.peer.Inconsistent, f.peer.DiskState, f.peer.LastInSync = true, true, "Inconsistent", 0
	}, actionFull, false},
	{"restored old disk, in the set", func(f *sourceFacts) {
		f.member()
		f.peer.Inconsistent, f.peer.DiskState, f.peer.LastInSync = true, "Inconsistent", 0
	}, actionNone, false},
	{"replaced empty disk", func(f *sourceFacts) { f.known, f.peer.JustCreated = true, true }, actionFull, false},
	{"failed disk", func(f *sourceFacts) { f.peer.DiskState = "Failed" }, actionNone, false},
	{"failed disk, in the set", func(f *sourceFacts) { f.member(); f.peer.DiskState = "Failed" }, actionNone, false},
	{"diskless", func(f *sourceFacts) { f.peer.DiskState, f.peer.SizeBytes = "Diskless", 0 }, actionNone, false},
	{"another size", func(f *sourceFacts) { f.peer.SizeBytes = 1 << 21 }, actionRefuse, false},
	{"smaller, in the set", func(f *sourceFacts) { f.member(); f.peer.SizeBytes, f.peer.Promised = 1<<19, 10 }, actionRefuse, false},
	{"larger, in the set", func(f *sourceFacts) { f.member(); f.peer.SizeBytes = 1 << 21 }, actionRefuse, false},
	{"smaller, in the set, and has not promised the change of the size", func(f *sourceFacts) { f.member(); f.peer.SizeBytes = 1 << 19 }, actionJoin, false},
	{"smaller, left, and was away when it grew", func(f *sourceFacts) { f.peer.SizeBytes = 1 << 19 }, actionBitmap, false},
	{"side of a split", (*sourceFacts).forkedOff, actionSplit, false},
	{"side of a split, though this Primary knows what it lacks", func(f *sourceFacts) { f.forkedOff(); f.known = true }, actionSplit, false},
	{"side of a split, its disk is new", func(f *sourceFacts) { f.forkedOff(); f.peer.JustCreated = true }, actionSplit, false},
	{"side of a split, the Primary has no disk in sync", func(f *sourceFacts) { f.forkedOff(); f.selfInSync = false }, actionSplit, false},
	{"side of a split, without a disk", func(f *sourceFacts) { f.forkedOff(); f.peer.DiskState = "Failed" }, actionNone, false},
	{"given up", (*sourceFacts).givenUp, actionBitmap, false},
	{"given up, interrupted", func(f *sourceFacts) { f.givenUp(); f.known, f.peer.DiskState = true, "Inconsistent" }, actionBitmap, true},
	{"given up, its own bitmap is not complete", func(f *sourceFacts) { f.givenUp(); f.peer.CompleteSince = 0 }, actionFull, false},
	{"given up, its own bitmap began later", func(f *sourceFacts) { f.givenUp(); f.peer.CompleteSince = 5 }, actionFull, false},
	{"given up, the forced one's bitmap is not complete", func(f *sourceFacts) { f.givenUp(); f.local.Peers[1].CompleteSince = 0 }, actionFull, false},
	{"given up, the forced one's bitmap began later", func(f *sourceFacts) { f.givenUp(); f.local.Peers[1].CompleteSince = 9 }, actionFull, false},
	{"given up, nothing tells when the forced one left", func(f *sourceFacts) { f.givenUp(); f.configuration.Replicas[1].Fork.Base = 0 }, actionFull, false},
	{"given up, another than the forced one is Primary", func(f *sourceFacts) { f.givenUp(); f.configuration.Replicas[1].Fork.Peer = "c" }, actionFull, false},
	{"given up, its metadata know nothing", func(f *sourceFacts) { f.givenUp(); f.peer.LastInSync = 0 }, actionFull, false},
	{"forced, and given up", (*sourceFacts).forcedInVain, actionBitmap, false},
	{"forced, and given up, its bitmap is not complete", func(f *sourceFacts) { f.forcedInVain(); f.peer.CompleteSince = 0 }, actionFull, false},
	{"forced, and given up, the kept one's bitmap is not complete", func(f *sourceFacts) { f.forcedInVain(); f.local.Peers[1].CompleteSince = 9 }, actionFull, false},
	{"given up, its undo file can't be opened", func(f *sourceFacts) { f.givenUp(); f.peer.NotTarget = "no space" }, actionNone, false},
	{"left before a force", func(f *sourceFacts) { f.configuration.ForcedAt = 8 }, actionFull, false},
	{"came in after a force", func(f *sourceFacts) { f.configuration.ForcedAt = 4 }, actionBitmap, false},
	{"left before a force, what it lacks is known since", func(f *sourceFacts) { f.configuration.ForcedAt, f.known = 8, true }, actionBitmap, true},
	{"this node is diskless", func(f *sourceFacts) { f.diskless, f.known = true, true }, actionNone, false},
	{"this node is not in sync", func(f *sourceFacts) { f.selfInSync, f.known = false, true }, actionNone, false},
}

// Every combination that can occur has its action, and the rules that were tried end with the one that gave it.
func TestSourceDecision(t *testing.T) {
	used := map[string]bool{}
	for _, tt := range sourceCases {
		d := decideSource(factsOf(tt.change))
		if d.action != tt.action || d.supersedes != tt.supersedes || d.reason == "" {
			t.Errorf("%s: %s (supersedes %v): %s, want %s (%v)", tt.name, d.action, d.supersedes, d.reason, tt.action, tt.supersedes)
		}
		if !d.tried[len(d.tried)-1].Yes {
			t.Errorf("%s: no rule fits", tt.name)
		}
		for i, rule := range d.tried {
			if rule.Yes && i != len(d.tried)-1 {
				t.Errorf("%s: %q holds, and the decision went on", tt.name, rule.Question)
			}
		}
		used[d.tried[len(d.tried)-1].Question] = true
	}
	for _, rule := range append(admissionRules(), extentRules()...) {
		if !used[rule.question] {
			t.Errorf("no case ends at %q", rule.question)
		}
	}
}

// randomFacts are facts of any kind, also such as never occur.
func randomFacts(random *rand.Rand) sourceFacts {
	chance := func() bool { return random.IntN(2) == 0 }
	generation := func() uint64 { return random.Uint64N(6) }
	pick := func(names ...string) string { return names[random.IntN(len(names))] }
	conf := &Configuration{SizeBytes: 1 << 20, Generation: generation(), AckDurable: chance(), Primary: pick("a", "b"), ForcedAt: generation()}
	for slot, node := range []string{"a", "b", "c"} {
		if chance() {
			conf.InSync = append(conf.InSync, node)
		}
		if random.IntN(4) > 0 {
			r := Replica{Node: node, Slot: slot, LeftAt: generation(), AdmittedAt: generation(), AdmittedBoot: pick("", "x", "y")}
			if random.IntN(3) == 0 {
				r.Fork = Fork{At: generation(), Peer: pick("a", "b"), Base: generation(), Forced: chance()}
				r.Discard.At = generation()
			}
			conf.Replicas = append(conf.Replicas, r)
		}
	}
	f := sourceFacts{configuration: conf, selfInSync: chance(), diskless: chance(), known: chance(), slot: random.IntN(12) - 2, dirty: generation()}
	for i := range f.local.Peers {
		f.local.Peers[i] = SuperblockPeer{Name: pick("", "a", "b", "c"), CompleteSince: generation()}
	}
	f.peer = hello{From: pick("a", "b", "c", "d"), BootID: pick("x", "y"), SizeBytes: random.Uint64N(2) << 20,
		DiskState: pick("Diskless", "Failed", "Inconsistent", "Outdated", "Consistent", "UpToDate", "?"), Promised: generation(), LastInSync: generation(),
		Inconsistent: chance(), JustCreated: random.IntN(4) == 0, DirtyBlocks: generation(), CompleteSince: generation()}
	return f
}

// Whatever the facts are, nobody joins without being in the set and sound, and no resync by bitmap leaves a gap out.
func TestSourceDecisionIsSafe(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	seen := map[action]int{}
	for range 200_000 {
		f := randomFacts(random)
		d := decideSource(f)
		seen[d.action]++
		peer, replica := &f.peer, f.configuration.replica(f.peer.From)
		member := slices.Contains(f.configuration.InSync, peer.From)
		copies := d.action == actionBitmap || d.action == actionFull
		since := f.completeSince()
		covered := f.known || since != 0 && replica != nil && since <= replica.LeftAt && replica.AdmittedAt >= f.configuration.ForcedAt
		covered = covered || replica != nil && replica.Discard.At != 0 && f.forkCovered()
		undecided := replica != nil && replica.Fork.At != 0 && replica.Discard.At == 0 && !member
		restarted := replica != nil && !f.configuration.AckDurable && replica.AdmittedBoot != "" && replica.AdmittedBoot != peer.BootID
		unusable := slices.Contains([]string{"Diskless", "Failed", "Inconsistent"}, peer.DiskState)
		switch {
		case d.action == actionJoin && (!member || unusable || restarted):
			t.Fatalf("%+v joins", f)
		case undecided && (copies || d.action == actionJoin):
			t.Fatalf("%+v: a side of a split is touched", f)
		case d.action == actionSplit && !undecided:
			t.Fatalf("%+v: a split where there is none", f)
		case d.action == actionBitmap && (!covered || peer.JustCreated || replica.LeftAt != 0 && peer.LastInSync == 0):
			t.Fatalf("%+v gets a bitmap resync", f)
		case d.supersedes && (d.action != actionBitmap || !f.known || peer.DirtyBlocks > f.dirty):
			t.Fatalf("%+v: the peer's bitmap is thrown away", f)
		case copies && (member || f.diskless || !f.selfInSync || peer.DiskState == "Failed" || peer.DiskState == "Diskless"):
			t.Fatalf("%+v is copied to", f)
		case (copies || d.action == actionJoin) && (replica == nil || peer.Promised > f.configuration.Generation):
			t.Fatalf("%+v is not refused", f)
		case d.reason == "" || !d.tried[len(d.tried)-1].Yes:
			t.Fatalf("%+v: no rule fits", f)
		}
	}
	for a := actionNone; a <= actionSplit; a++ {
		if seen[a] < 100 {
			t.Errorf("%s only %d times", a, seen[a])
		}
	}
}

// A disk that was exchanged says so by its bits too: a Primary that was copying to it begins again.
func TestExchangedDiskHasEveryBit(t *testing.T) {
	run := newAttachRun(t)
	run.period(t, 1, true)
	disk := run.Region(run.disk)
	if err := (crashDisk{disk}).SetTag(99); err != nil {
		t.Fatal(err)
	}
	for range 2 { // also after the count was made to fit
		r, err := attached(disk, run.Region(run.meta))
		if err != nil {
			t.Fatal(err)
		}
		if have, want := r.local.store.DirtyBlocks(1), uint64(crashDeviceBytes/4096); !r.superblock().Inconsistent || have != want {
			t.Errorf("inconsistent %v, %d of %d blocks dirty", r.superblock().Inconsistent, have, want)
		}
		if err := r.detach(false); err != nil {
			t.Fatal(err)
		}
	}
}
