/*
 * promotion.pml: who may be Primary, and what an acknowledgement is worth. For Spin; quorum/model/check runs it.
 *
 * The quorum is one linear history of configurations, as package quorum commits it: each with the Primary and its
 * incarnation, the in-sync set, the boot ids of its members, clean, hold, forks. Raft is not in here. What is: proposals
 * that are late, lost, or outlive who made them; nodes that learn the history late, one entry at a time; frames that are
 * late or lost; processes that die (the page cache stays) and machines that restart (it goes); disks that fail; leases;
 * operators. Every step may be put off for ever, so a partition is a schedule in which what would cross it does not
 * happen. Whoever is in sync may ask to be promoted at any time: suspicion, majorities of it and time-outs only decide
 * when, so they need no place here, and no safety depends on them.
 *
 * A write goes to a block of its own, one bit; "has the write" is a bit test. data: what a replica has, page cache
 * included. stable: what is on its medium.
 *
 * What is checked, by assertions:
 *   I2  every acknowledged write is on each member of the in-sync set that kept its page cache, or is clean; every write that a
 *       FLUSH covers is on the medium of each member, also where all machines restarted
 *   I2r the same of every write that a read has returned
 *   I3  no replica applies a write of an older generation after one of a newer
 *   I6  no split brain: a write that began after a newer generation had acknowledged something is never acknowledged in an older
 *   I7  a read that is answered has every acknowledged write
 *   IA  nobody is promoted automatically against the newest record's hold
 *   IF  (force) a fork keeps what its side acknowledged, up to the operator's decision; I2, I6 and I7 hold on each side
 *
 * The switch that removes a rule; docs/QUORUM.md says which function enforces each:
 *   R1  NO_GENERATION_CHECK  a replica takes frames of any generation
 *   R1  FORGET_PROMISE       the promise is lost when the process ends (R9's barrier restores it: wants NO_BARRIER, too)
 *   R3  NO_FIT               a member is promoted although its machine restarted and another kept its cache
 *   R3  JOIN_RESTARTED       a member whose machine restarted goes on as if it had not
 *   R3  NO_PEER_FLUSH        a FLUSH is answered before the peers have done it
 *   R4  ACK_BEFORE_REMOVAL   acknowledge without a lost member before its removal is committed
 *   R5  ADD_UNAWAITED        do not wait for a replica whose admission may be in flight
 *   R5  ADD_OLD_INCARNATION  an admission counts although the target runs as a newer process
 *   R6  PROMOTE_ANYBODY      a replica outside of the set may be promoted
 *   R6  KEEP_SET             a promotion keeps the set although the role was not given up clean
 *   R7  NO_LEASE             reads need no lease
 *   R7  READ_IN_FLIGHT       reads do not wait for writes under way
 *   R8  CLOCK_BEYOND_BOUND   the guard of a lease may end before the lease
 *   R8  GRANT_AS_CANDIDATE   a replica grants a lease while its own promotion may be in flight
 *   R8  NO_BOOT_GRACE        a restarted replica does not wait out what it may have granted
 *   R8  DEPOSED_IS_CLEAN     no lease is waited out whenever the record has no Primary (wants FORCE, NODES=3)
 *   R8  ANY_EXIT             a lease is not waited out once any process has ended, whoever the Primary is
 *   R9  REPLAYED_ROLE        a restarted node serves because the record names it
 *   R9  REGISTER_AGAIN       a restored directory may register an incarnation that was used before
 *   R9  NO_BARRIER           a restarted node acts in what it knew before
 *   R9  PROMOTE_UNREGISTERED a promotion by a process that has ended is accepted
 *   R10 SERVE_WHILE_DEMOTING go on with writes and reads while the demotion is proposed
 *   R10 DEMOTE_UNFLUSHED     call a demotion clean without a flush everywhere
 *   R10 RESUME_IN_DOUBT      go on as Primary although a proposal to hand the role over may have an effect yet
 *   R11 GIVE_UP_CLEAN        a Primary without a disk gives the role up to a restarted member as if that were clean
 *   R12 FORCE_UNMARKED       force does not mark those it leaves behind
 *   R12 COPY_TO_FORK         a fork is the target of a resync before the decision
 *   CAS NO_CAS               commands do not name the generation they were made for
 *   hold IGNORE_HOLD         automatic promotion does not look at hold
 *
 * What a run has: NODES, MAXG (newest generation), MAXW (writes), MAXC (restarts of each node), MAXD (disks lost in all),
 * MAXF (flushes that clients ask for), CAP (frames under way towards a node), SLOTS (proposals in flight),
 * ONE_OUT (node 1, with three: node 2, starts outside of the set); NO_READS, FORCE, DEMOTE, NO_MACHINE
 * (no machine restarts), STILL (nobody is removed or admitted).
 *
 * Left out: Raft; the bits and the log by which a resync finds what differs (one step here, with no write under way; package
 * replication's tests and internal/sim have them); overwriting of a block; growing; --ack durable (NO_MACHINE is its equivalent);
 * that the length of a lease is measured (a timer of the granter ends after all timers of holders); disks restored from a
 * backup, which are refused or resynced in full when they are attached.
 */

#ifndef NODES
#define NODES 2
#endif
#ifndef MAXG
#define MAXG 4
#endif
#ifndef MAXW
#define MAXW 2
#endif
#ifndef MAXC
#define MAXC 1
#endif
#ifndef MAXD
#define MAXD 0
#endif
#ifndef MAXF
#define MAXF 0
#endif
#ifndef CAP
#define CAP 1
#endif
#ifndef SLOTS
#define SLOTS 2
#endif
#ifdef NO_READS
#define NO_LEASE
#endif

#define NOBODY  NODES
#define ALL     ((1 << NODES) - 1)
#define BIT(x)  (1 << (x))
#define FLUSH   (1 << MAXW)       /* among the bits of writes: the request to make everything stable */

/* ---- kinds of proposals ---- */
#define P_FREE    0
#define P_REMOVE  1
#define P_ADD     2
#define P_DETACH  3
#define P_PROMOTE 4
#define P_AUTO    5               /* a promotion that nobody asked for */
#define P_DEMOTE  6               /* clean */
#define P_GIVEUP  7               /* not clean */
#define P_FORCE   8
#define P_SWITCH  9               /* to another member, the set stays */

/* ---- the record: history by generation ---- */
byte gen = 1;
byte h_prim[MAXG+1];
byte h_inc[MAXG+1];
byte h_set[MAXG+1];
byte h_boot[MAXG+1];              /* of each member as it was admitted, two bits each */
bool h_clean[MAXG+1];
bool h_hold[MAXG+1];              /* nobody is promoted without being asked for */
#ifdef FORCE
byte h_fork[MAXG+1];              /* those nobody has decided about */
byte forcedAt = 0;                /* generation of the forced change */
byte keptAt = 0;                  /* generation of the decision for the side that was left behind */
#endif
byte r_inc[NODES];                /* registered */
byte r_boot[NODES];

/* ---- proposals in flight ---- */
byte p_kind[SLOTS], p_by[SLOTS], p_arg[SLOTS], p_gen[SLOTS], p_inc[SLOTS], p_targetInc[SLOTS];

/* ---- a node: durable ---- */
byte promised[NODES];
byte data[NODES];                 /* page cache included */
byte stable[NODES];
byte wrote[NODES];                /* generation of the newest write applied */
bool disk[NODES];
byte boot[NODES];
/* ---- a node: its process ---- */
bool up[NODES];
byte inc[NODES];
byte view[NODES];                 /* generation that it acts in */
bool serving[NODES];
bool candidate[NODES];            /* its own promotion in this generation may be in flight */
bool stopping[NODES];             /* gives its role up: nothing is answered any more */
bool quiet[NODES];                /* all is flushed everywhere, and nothing was begun since */
byte pending[NODES];              /* write or flush under way; 0: none */
byte has[NODES];                  /* who has answered it */
byte sent[NODES];
byte adding[NODES];               /* replicas whose admission may be in flight */
byte target[NODES];               /* incarnation of each that was resynced, two bits each */
#ifdef ACK_BEFORE_REMOVAL
byte lost[NODES];
#endif
#ifdef REGISTER_AGAIN
bool restored = false;
#endif
/* ---- leases ---- */
byte held[NODES];                 /* granters whose lease this Primary believes in */
bool given[NODES];                /* a lease that this node has granted, or may have, may be out */

chan req[NODES] = [CAP] of { byte, byte, byte };         /* from, generation, bit */
chan rsp[NODES] = [CAP] of { byte, byte, byte, byte };   /* from, boot, generation, bit */

/* ---- what the world has seen ---- */
byte acked = 0, seen = 0, flushed = 0;
byte written = 0, flushes = 0, disksLost = 0;
byte newestAck = 0;               /* generation */
byte lossAt = 0, survived = 0;    /* the newest generation that counted a loss, and what was left: an older Primary's late answers are from before it */
#if MAXF > 0 || defined(DEMOTE)
byte covered[NODES];              /* what the flush under way covers */
#define BEGINFLUSH   covered[n] = acked
#define ENDFLUSH     flushed = flushed | covered[n]; covered[n] = 0
#define DROPFLUSH    covered[n] = 0
#else
#define BEGINFLUSH   skip
#define ENDFLUSH     skip
#define DROPFLUSH    skip
#endif
bool late[NODES];                 /* the write under way began when a newer generation had acknowledged something */
#ifdef FORCE
byte f_acked = 0, f_seen = 0, f_newestAck = 0;           /* of the side that was left behind */
byte behind = 0;                                         /* its replicas, until the operator has decided */
#endif

byte k, c, t, g, w, b;            /* scratch of a step: 0 between steps */

#define SETOF(n)     (h_set[view[n]])
#define BOOTOF(g,m)  ((h_boot[g] >> (2*(m))) & 3)
#define INCOF(n,m)   ((target[n] >> (2*(m))) & 3)
#define KEPT(g,m)    (boot[m] == BOOTOF(g,m))
#define HAS(m,set)   (((set) & ~data[m]) == 0)
#define BUSY(n)      (pending[n] != 0)

/* ---- rules, and what is left when one is removed ---- */
#ifdef NO_CAS
#define CAS(k)          (gen < MAXG)
#define TIMELY(n)       (true)
#else
#define CAS(k)          (gen < MAXG && p_gen[k] == gen)
#define TIMELY(n)       (view[n] == gen)    /* what is proposed for an older generation changes nothing */
#endif
#ifdef NO_GENERATION_CHECK
#define TAKES(n,g)      (true)
#else
#define TAKES(n,g)      ((g) >= promised[n])
#endif
#ifdef REPLAYED_ROLE
#define MINE(n)         (h_prim[view[n]] == n)
#else
#define MINE(n)         (h_prim[view[n]] == n && h_inc[view[n]] == inc[n])
#endif
#ifdef ADD_UNAWAITED
#define MIRRORS(n)      (SETOF(n))
#else
#define MIRRORS(n)      (SETOF(n) | adding[n])
#endif
#ifdef ACK_BEFORE_REMOVAL
#define ACKSET(n)       (MIRRORS(n) & ~lost[n])
#else
#define ACKSET(n)       (MIRRORS(n))
#endif
#ifdef JOIN_RESTARTED
#define JOINED(n,m,b)   (true)
#else
#define JOINED(n,m,b)   ((SETOF(n) & BIT(m)) == 0 || (b) == BOOTOF(view[n],m))
#endif
#ifdef PROMOTE_ANYBODY
#define ELIGIBLE(g,n)   (true)
#else
#define ELIGIBLE(g,n)   ((h_set[g] & BIT(n)) != 0)
#endif
#ifdef PROMOTE_UNREGISTERED
#define CURRENT(k)      (true)
#else
#define CURRENT(k)      (r_inc[p_by[k]] == p_inc[k])
#endif
#ifdef ADD_OLD_INCARNATION
#define SAMETARGET(k)   (true)
#else
#define SAMETARGET(k)   (r_inc[p_arg[k]] == p_targetInc[k])
#endif
#define RECORDEDBOOT(m) (r_boot[m] == BOOTOF(gen,m))
#if NODES > 2
#define SOMEKEPT        ((h_set[gen] & 1) && RECORDEDBOOT(0) || (h_set[gen] & 2) && RECORDEDBOOT(1) || (h_set[gen] & 4) && RECORDEDBOOT(2))
#else
#define SOMEKEPT        ((h_set[gen] & 1) && RECORDEDBOOT(0) || (h_set[gen] & 2) && RECORDEDBOOT(1))
#endif
#ifdef NO_FIT
#define FIT(n)          (true)
#else
#define FIT(n)          (h_clean[gen] || RECORDEDBOOT(n) || !SOMEKEPT)
#endif
#ifdef NO_LEASE
#define LEASED(n)       (true)
#define WAITED(n)       (true)
#define GRACE           false
#else
#define LEASED(n)       (((ACKSET(n) & ~BIT(n)) & ~held[n]) == 0)
#define GRACE           true
#ifdef DEPOSED_IS_CLEAN
#define GIVENUP(n)      (h_prim[view[n]] == NOBODY)
#else
#define GIVENUP(n)      (h_clean[view[n]])
#endif
/* The recorded Primary's process has ended: certified by its supervisor, or a newer one has registered there. */
#ifdef ANY_EXIT
#define EXITED(n)       (!up[0] || !up[1] || inc[0] > 0 || inc[1] > 0)
#else
#define EXITED(n)       (h_prim[view[n]] != NOBODY && (!up[h_prim[view[n]]] || inc[h_prim[view[n]]] > h_inc[view[n]]))
#endif
#define WAITED(n)       (!given[n] || GIVENUP(n) || EXITED(n))
#endif
#if NODES > 2
#define BELIEVED(m)     (((held[0] | held[1] | held[2]) & BIT(m)) != 0)
#else
#define BELIEVED(m)     (((held[0] | held[1]) & BIT(m)) != 0)
#endif
#ifdef CLOCK_BEYOND_BOUND
#define GUARDENDS(m)    (true)
#else
#define GUARDENDS(m)    (!BELIEVED(m))
#endif
#ifdef GRANT_AS_CANDIDATE
#define GRANTS(m,n)     (true)
#else
#define GRANTS(m,n)     (!candidate[m] || view[n] > view[m])
#endif
#ifdef SERVE_WHILE_DEMOTING
#define OPEN(n)         (up[n] && serving[n] && promised[n] == view[n])
#else
#define OPEN(n)         (up[n] && serving[n] && promised[n] == view[n] && !stopping[n])
#endif
#ifdef DEMOTE_UNFLUSHED
#define QUIET(n)        (!BUSY(n))
#else
#define QUIET(n)        (!BUSY(n) && quiet[n])
#endif
#ifdef GIVE_UP_CLEAN
#define GIVEUPCLEAN     true
#else
#define GIVEUPCLEAN     false
#endif
#define LEAVING(k,n)    (p_kind[k] >= P_DEMOTE && p_by[k] == n)
#ifdef RESUME_IN_DOUBT
#define CERTAIN(n)      (true)
#elif SLOTS > 1
#define CERTAIN(n)      (view[n] == gen && !LEAVING(0,n) && !LEAVING(1,n))
#else
#define CERTAIN(n)      (view[n] == gen && !LEAVING(0,n))
#endif
#ifdef IGNORE_HOLD
#define AUTOMATIC       (true)
#else
#define AUTOMATIC       (false)    /* what nothing forbids is as good as what was asked for */
#endif
#ifdef IGNORE_HOLD
#define UNHELD(n)       (true)
#else
#define UNHELD(n)       (!h_hold[view[n]])
#endif
#ifdef READ_IN_FLIGHT
#define READABLE(n)     (true)
#else
#define READABLE(n)     (!BUSY(n))
#endif
#ifdef FORCE
#ifdef COPY_TO_FORK
#define UNDECIDED(g,m)  (false)
#else
#define UNDECIDED(g,m)  ((h_fork[g] & BIT(m)) != 0)
#endif
#define LEFTBEHIND(n)   (view[n] < forcedAt && keptAt == 0)
#define GIVENAWAY(n)    (keptAt > 0 && view[n] >= forcedAt && view[n] < keptAt)
#else
#define UNDECIDED(g,m)  (false)
#define LEFTBEHIND(n)   (false)
#define GIVENAWAY(n)    (false)
#endif

#ifdef FORCE
#define MARKLATE     late[n] = (LEFTBEHIND(n) -> f_newestAck > view[n] : newestAck > view[n])
#else
#define MARKLATE     late[n] = (newestAck > view[n])
#endif

inline check() {
	for (c : 0 .. NODES-1) {
		if
		:: ((h_set[gen] & BIT(c)) && disk[c]) ->
			assert((flushed & ~stable[c]) == 0);                                      /* I2 */
			assert(!(h_clean[gen] || KEPT(gen,c)) || HAS(c, acked));                  /* I2 */
			assert(!(h_clean[gen] || KEPT(gen,c)) || HAS(c, seen))                    /* I2r */
		:: else
		fi;
#ifdef FORCE
		if
		:: (behind & BIT(c)) && disk[c] && KEPT(forcedAt-1,c) ->
			assert(HAS(c, f_acked | f_seen));                                         /* IF */
		:: else
		fi
#endif
	};
	c = 0     /* a step does not end with a loop */
}

/* ---- the state machine of the record: package quorum's apply ---- */

inline free(fk) { p_kind[fk] = P_FREE; p_by[fk] = 0; p_arg[fk] = 0; p_gen[fk] = 0; p_inc[fk] = 0; p_targetInc[fk] = 0 }

#define SERVED(k)  (h_prim[gen] == p_by[k] && h_inc[gen] == p_inc[k])
#define MEMBER(x)  ((h_set[gen] & BIT(x)) != 0)
#define OTHERS(x)  ((h_set[gen] & ~BIT(x)) != 0)

inline advance() {
	gen++;
	h_prim[gen] = h_prim[gen-1]; h_inc[gen] = h_inc[gen-1]; h_set[gen] = h_set[gen-1]; h_boot[gen] = h_boot[gen-1];
	h_clean[gen] = h_clean[gen-1]; h_hold[gen] = h_hold[gen-1];
#ifdef FORCE
	h_fork[gen] = h_fork[gen-1];
#endif
}

inline takeRole(tn) {
	h_prim[gen] = tn; h_inc[gen] = p_inc[k]; h_clean[gen] = false; h_hold[gen] = 0
}

inline apply(k) {
	if
	:: CAS(k) ->
		if
		:: p_kind[k] == P_REMOVE && SERVED(k) && OTHERS(p_arg[k]) ->
			advance();
			h_set[gen] = h_set[gen] & ~BIT(p_arg[k])
		:: p_kind[k] == P_ADD && SERVED(k) && SAMETARGET(k) && !MEMBER(p_arg[k]) && !UNDECIDED(gen, p_arg[k]) ->
			advance();
			h_set[gen] = h_set[gen] | BIT(p_arg[k]);
			h_boot[gen] = (h_boot[gen] & ~(3 << (2*p_arg[k]))) | (r_boot[p_arg[k]] << (2*p_arg[k]));
#ifdef FORCE
			h_fork[gen] = h_fork[gen] & ~BIT(p_arg[k])
#endif
		:: p_kind[k] == P_DETACH && SERVED(k) && MEMBER(p_by[k]) && OTHERS(p_by[k]) ->
			advance();
			h_set[gen] = h_set[gen] & ~BIT(p_by[k])
		:: (p_kind[k] == P_PROMOTE || p_kind[k] == P_AUTO) && CURRENT(k) && ELIGIBLE(gen, p_by[k]) && !SERVED(k) && FIT(p_by[k]) ->
			assert(p_kind[k] != P_AUTO || !h_hold[gen]);  /* IA */
			if
			:: h_clean[gen] || RECORDEDBOOT(p_by[k]) || SOMEKEPT || !MEMBER(p_by[k]) -> skip
			:: else ->    /* all machines restarted: what no FLUSH covers may be lost, and that is counted */
				acked = acked & data[p_by[k]]; seen = seen & data[p_by[k]]; survived = data[p_by[k]]; lossAt = gen+1
			fi;
			advance();
#ifdef KEEP_SET
			skip;
#else
			if
			:: h_clean[gen] -> skip
			:: else -> h_set[gen] = BIT(p_by[k])
			fi;
#endif
			for (c : 0 .. NODES-1) {
				if
				:: h_set[gen] & BIT(c) -> h_boot[gen] = (h_boot[gen] & ~(3 << (2*c))) | (r_boot[c] << (2*c))
				:: else
				fi
			};
			takeRole(p_by[k])
		:: p_kind[k] == P_DEMOTE && SERVED(k) ->
			advance();
			h_prim[gen] = NOBODY; h_inc[gen] = 0; h_clean[gen] = true; h_hold[gen] = p_arg[k]
		:: p_kind[k] == P_SWITCH && SERVED(k) && SAMETARGET(k) && MEMBER(p_arg[k]) && RECORDEDBOOT(p_arg[k]) ->
			advance();
			h_prim[gen] = p_arg[k]; h_inc[gen] = p_targetInc[k]; h_hold[gen] = 0
		:: p_kind[k] == P_GIVEUP && SERVED(k) ->
			advance();
			h_prim[gen] = NOBODY; h_inc[gen] = 0; h_clean[gen] = GIVEUPCLEAN
#ifdef FORCE
		:: p_kind[k] == P_FORCE && CURRENT(k) && !SERVED(k) && forcedAt == 0 && !(ELIGIBLE(gen, p_by[k]) && FIT(p_by[k])) ->
			advance();
#ifndef FORCE_UNMARKED
			h_fork[gen] = h_set[gen] & ~BIT(p_by[k]);
#endif
			forcedAt = gen; behind = h_set[gen] & ~BIT(p_by[k]); f_acked = acked; f_seen = seen; f_newestAck = newestAck;
			acked = acked & data[p_by[k]]; seen = seen & data[p_by[k]]; flushed = flushed & stable[p_by[k]];
			h_set[gen] = BIT(p_by[k]);
			h_boot[gen] = (h_boot[gen] & ~(3 << (2*p_by[k]))) | (r_boot[p_by[k]] << (2*p_by[k]));
			takeRole(p_by[k])
#endif
		:: else
		fi
	:: else
	fi;
	free(k);
#ifndef NO_CAS
	for (c : 0 .. SLOTS-1) {      /* what was proposed for an older generation is void */
		if
		:: p_kind[c] != P_FREE && p_gen[c] < gen -> free(c)
		:: else
		fi
	};
#endif
	check();
	k = 0
}

/* propose puts a proposal of node n into a free slot; the same one is not in flight twice. */
#if SLOTS > 1
#define ROOM       (p_kind[0] == P_FREE || p_kind[1] == P_FREE)
#define FIRSTFREE  (p_kind[0] == P_FREE -> 0 : 1)
#define UNASKED(pk,pa) (!(p_kind[0] == (pk) && p_by[0] == n && p_arg[0] == (pa) && p_inc[0] == inc[n]) && \
	!(p_kind[1] == (pk) && p_by[1] == n && p_arg[1] == (pa) && p_inc[1] == inc[n]))
#else
#define ROOM       (p_kind[0] == P_FREE)
#define FIRSTFREE  0
#define UNASKED(pk,pa) (true)
#endif
#define MAYASK(pk,pa)  (ROOM && gen < MAXG && TIMELY(n) && UNASKED(pk,pa))

inline propose(pk, pa) {
	k = FIRSTFREE;
	p_kind[k] = pk; p_by[k] = n; p_arg[k] = pa; p_gen[k] = view[n]; p_inc[k] = inc[n];
	p_targetInc[k] = (pk == P_ADD -> INCOF(n,pa) : (pk == P_SWITCH -> inc[pa] : 0));
	k = 0
}

/* the next entry of the history is adopted: promised durably, and acted in */
inline learn() {
	view[n]++;
	promised[n] = (promised[n] < view[n] -> view[n] : promised[n]);
	adding[n] = 0; target[n] = 0; sent[n] = 0; candidate[n] = false; has[n] = has[n] & BIT(n);
#ifdef ACK_BEFORE_REMOVAL
	lost[n] = 0;
#endif
	if
	:: MINE(n) ->
		if
		:: serving[n] -> skip
		:: else -> serving[n] = true; stopping[n] = false; quiet[n] = false
		fi
	:: else ->
		serving[n] = false; stopping[n] = false; quiet[n] = false; pending[n] = 0; late[n] = false; has[n] = 0; held[n] = 0; DROPFLUSH
	fi
}

/* the process is gone, and all that it had in memory */
inline die() {
	up[n] = false; serving[n] = false; stopping[n] = false; quiet[n] = false; candidate[n] = false; pending[n] = 0; late[n] = false; DROPFLUSH;
	has[n] = 0; sent[n] = 0; adding[n] = 0; target[n] = 0; held[n] = 0; given[n] = false;
#ifdef ACK_BEFORE_REMOVAL
	lost[n] = 0;
#endif
#ifdef FORGET_PROMISE
	promised[n] = 0;
#endif
}

inline acknowledge() {
	if
	:: GIVENAWAY(n) -> skip
	:: else ->
		assert(!late[n]);                                                            /* I6 */
#ifdef FORCE
		if
		:: LEFTBEHIND(n) ->
			f_acked = f_acked | (pending[n] & ~FLUSH);
			f_newestAck = (f_newestAck < view[n] -> view[n] : f_newestAck)
		:: else ->
#endif
			if
			:: pending[n] == FLUSH -> ENDFLUSH; quiet[n] = true
			:: else -> acked = acked | (view[n] < lossAt -> pending[n] & survived : pending[n]); newestAck = (newestAck < view[n] -> view[n] : newestAck)
			fi
#ifdef FORCE
		fi
#endif
	fi;
	pending[n] = 0; late[n] = false; has[n] = 0; sent[n] = 0;
	check()
}

#ifdef FORCE
#define KEEPABLE(x)  ((h_fork[gen] & BIT(x)) && gen < MAXG && disk[x] && KEPT(forcedAt-1,x))

inline keepFork(x) {
	advance();
	keptAt = gen; acked = f_acked; seen = f_seen; newestAck = f_newestAck; flushed = 0;
	h_fork[gen] = 0; behind = 0; h_set[gen] = BIT(x); h_prim[gen] = NOBODY; h_inc[gen] = 0; h_clean[gen] = false; h_hold[gen] = 0;
	check()
}
#endif

inline answerRead(rn) {
	if
	:: GIVENAWAY(n) -> skip
#ifdef FORCE
	:: LEFTBEHIND(n) ->
		assert(HAS(rn, f_acked));                                                    /* I7 */
		f_seen = f_seen | data[rn]
#endif
	:: else ->
		assert(HAS(rn, acked));                                                      /* I7 */
		seen = seen | data[rn]
	fi;
	check()
}

/* a frame to a peer that has not been sent one yet */
#define SENDS(n,x)    (up[n] && serving[n] && BUSY(n) && (sent[n] & BIT(x)) == 0 && ((SETOF(n) | adding[n]) & BIT(x)) && len(req[x]) < CAP)
#ifdef STILL
#define MOVES         false
#else
#define MOVES         true
#endif
#define LOSES(n,x)    (MOVES && OPEN(n) && ((SETOF(n) | adding[n]) & BIT(x)) && (SETOF(n) & ~BIT(x)) != 0 && MAYASK(P_REMOVE, x))
#define COPIES(n,x)   (MOVES && OPEN(n) && !BUSY(n) && (SETOF(n) & BIT(n)) && disk[n] && up[x] && disk[x] && !serving[x] && \
	((SETOF(n) | adding[n]) & BIT(x)) == 0 && TAKES(x, view[n]) && !UNDECIDED(view[n], x))
#define ADMITS(n,x)   (OPEN(n) && (adding[n] & BIT(x)) && inc[x] == INCOF(n,x) && MAYASK(P_ADD, x))
#define LEASES(n,x)   (up[n] && serving[n] && promised[n] == view[n] && up[x] && !serving[x] && (ACKSET(n) & BIT(x)) && \
	(held[n] & BIT(x)) == 0 && promised[x] <= view[n] && GRANTS(x,n) && JOINED(n,x,boot[x]))
#define STANDSBY(n)   (up[n] && !serving[n] && disk[n] && ELIGIBLE(view[n], n) && WAITED(n))
#define HANDSOVER(n)  (up[n] && serving[n] && stopping[n] && QUIET(n) && (SETOF(n) & BIT(n)) && disk[n])
#define FAILSOVER(n,x) (up[n] && serving[n] && SETOF(n) == BIT(x) && up[x] && !KEPT(view[n],x) && MAYASK(P_GIVEUP, 0))
#define READSAT(n,x)  (OPEN(n) && (SETOF(n) & BIT(n)) == 0 && LEASED(n) && READABLE(n) && (SETOF(n) & BIT(x)) && up[x] && disk[x] && \
	promised[x] == view[n] && JOINED(n,x,boot[x]))

inline lose(x) {
	propose(P_REMOVE, x);
#ifdef ACK_BEFORE_REMOVAL
	lost[n] = lost[n] | BIT(x)
#endif
}

inline copy(x) {
	promised[x] = (promised[x] < view[n] -> view[n] : promised[x]);
	data[x] = data[n]; stable[x] = data[n]; wrote[x] = wrote[n];
	adding[n] = adding[n] | BIT(x);
	target[n] = (target[n] & ~(3 << (2*(x)))) | (inc[x] << (2*(x)));
	check()
}

inline applyFrame() {
	req[n] ? t, g, w;
	if
	:: disk[n] && TAKES(n,g) ->
		promised[n] = (promised[n] < g -> g : promised[n]);
		if
		:: w == FLUSH -> stable[n] = data[n]
		:: else -> assert(g >= wrote[n]); data[n] = data[n] | w; wrote[n] = g                         /* I3 */
		fi;
		if
		:: len(rsp[t]) < CAP -> rsp[t] ! n, boot[n], g, w
		:: else
		fi
	:: else
	fi;
	t = 0; g = 0; w = 0
}

inline answered() {
	rsp[n] ? t, b, g, w;
	if
	:: serving[n] && g == view[n] && w == pending[n] && w != 0 && JOINED(n,t,b) -> has[n] = has[n] | BIT(t)
	:: else
	fi;
	t = 0; b = 0; g = 0; w = 0
}

/* the Primary's own disk is a member like any other */
inline applyHere() {
	if
	:: pending[n] == FLUSH -> stable[n] = data[n]
	:: else -> assert(view[n] >= wrote[n]); data[n] = data[n] | pending[n]; wrote[n] = view[n]        /* I3 */
	fi;
	has[n] = has[n] | BIT(n)
}

/* the start: the process registers, and learns the record before it does anything else */
inline start(again) {
	up[n] = true; inc[n] = inc[n] + 1 - again; r_inc[n] = inc[n]; r_boot[n] = boot[n];
#ifndef NO_BARRIER
	view[n] = gen; promised[n] = gen;
#endif
#ifndef NO_BOOT_GRACE
	given[n] = GRACE;
#endif
	if
	:: MINE(n) -> serving[n] = true
	:: else
	fi
}

/* everything that node n does towards a peer x */
#define TOWARDS(x) \
	:: d_step { SENDS(n,x) -> req[x] ! n, view[n], pending[n]; sent[n] = sent[n] | BIT(x) } \
	:: d_step { LOSES(n,x) -> lose(x) } \
	:: d_step { COPIES(n,x) -> copy(x) } \
	:: d_step { ADMITS(n,x) -> propose(P_ADD, x) }
#ifdef NO_LEASE
#define LEASEOF(x)
#else
#define LEASEOF(x) \
	:: d_step { LEASES(n,x) -> held[n] = held[n] | BIT(x); given[x] = true } \
	:: d_step { held[n] & BIT(x) -> held[n] = held[n] & ~BIT(x) }
#endif

proctype Node(byte n) {
end:
	do
	/* ---- the record ---- */
	:: d_step { up[n] && view[n] < gen -> learn() }

	/* ---- requests of clients ---- */
	:: d_step { OPEN(n) && !BUSY(n) && written < MAXW ->
		pending[n] = BIT(written); written++; has[n] = 0; sent[n] = 0; quiet[n] = false; MARKLATE }
	:: d_step { up[n] && serving[n] && promised[n] == view[n] && !BUSY(n) && !quiet[n] && (stopping[n] || flushes < MAXF) ->
		flushes = (stopping[n] -> flushes : flushes + 1);
		pending[n] = FLUSH; has[n] = 0; sent[n] = 0; BEGINFLUSH; MARKLATE }
	:: d_step { up[n] && serving[n] && BUSY(n) && disk[n] && (has[n] & BIT(n)) == 0 && promised[n] == view[n] -> applyHere() }
	:: d_step { up[n] && serving[n] && BUSY(n) && promised[n] == view[n] && (ACKSET(n) & ~has[n]) == 0 -> acknowledge() }
#ifdef NO_PEER_FLUSH
	:: d_step { up[n] && serving[n] && pending[n] == FLUSH && promised[n] == view[n] && (has[n] & BIT(n)) -> acknowledge() }
#endif

	/* ---- a replica ---- */
	:: d_step { up[n] && nempty(req[n]) -> applyFrame() }
	:: d_step { up[n] && nempty(rsp[n]) -> answered() }
	:: d_step { nempty(req[n]) -> req[n] ? t, g, w; t = 0; g = 0; w = 0 }

	/* ---- towards the others: writes, R4 (also the removal of one that is being admitted, which makes that void), R5, R8 ---- */
#if NODES > 2
	TOWARDS((n+1)%NODES)
	TOWARDS((n+2)%NODES)
	LEASEOF((n+1)%NODES)
	LEASEOF((n+2)%NODES)
#else
	TOWARDS(1-n)
	LEASEOF(1-n)
#endif
#ifndef NO_LEASE
	:: d_step { given[n] && up[n] && GUARDENDS(n) -> given[n] = false }
#endif

	/* ---- R6: promotion; R9: also of the recorded Primary's new process ---- */
	:: d_step { STANDSBY(n) && MAYASK(P_PROMOTE, 0) -> candidate[n] = true; propose(P_PROMOTE, 0) }
#ifdef DEMOTE
	:: d_step { STANDSBY(n) && UNHELD(n) && AUTOMATIC && MAYASK(P_AUTO, 0) -> candidate[n] = true; propose(P_AUTO, 0) }

	/* ---- R10: give the role up, held or not, or hand it over: stop, flush everywhere, commit; go on only if that has no effect ---- */
	:: d_step { OPEN(n) && !BUSY(n) && !stopping[n] && adding[n] == 0 -> stopping[n] = true }
	:: d_step { HANDSOVER(n) && MAYASK(P_DEMOTE, 0) -> propose(P_DEMOTE, 0) }
	:: d_step { HANDSOVER(n) && MAYASK(P_DEMOTE, 1) -> propose(P_DEMOTE, 1) }
	:: d_step { HANDSOVER(n) && (SETOF(n) & BIT((n+1)%NODES)) && up[(n+1)%NODES] && MAYASK(P_SWITCH, (n+1)%NODES) -> propose(P_SWITCH, (n+1)%NODES) }
	:: d_step { up[n] && serving[n] && stopping[n] && !BUSY(n) && CERTAIN(n) -> stopping[n] = false }
#endif

#if MAXD > 0
	/* ---- R11: a Primary that lost its disk leaves the set; if who is left has restarted, it gives the role up ---- */
	:: d_step { disk[n] && disksLost < MAXD -> disk[n] = false; data[n] = 0; stable[n] = 0; wrote[n] = 0; disksLost++ }
	:: d_step { up[n] && serving[n] && !disk[n] && (SETOF(n) & BIT(n)) && (SETOF(n) & ~BIT(n)) != 0 && MAYASK(P_DETACH, 0) ->
		propose(P_DETACH, 0) }
	:: d_step { FAILSOVER(n, (n+1)%NODES) -> propose(P_GIVEUP, 0) }
#if NODES > 2
	:: d_step { FAILSOVER(n, (n+2)%NODES) -> propose(P_GIVEUP, 0) }
#endif
#endif

#ifdef FORCE
	/* ---- R12: the operator forces one that has not everything ---- */
	:: d_step { up[n] && !serving[n] && disk[n] && forcedAt == 0 && WAITED(n) && MAYASK(P_FORCE, 0) -> candidate[n] = true; propose(P_FORCE, 0) }
#endif

#ifndef NO_READS
	/* ---- R7 ---- */
	:: d_step { OPEN(n) && disk[n] && (SETOF(n) & BIT(n)) && LEASED(n) && READABLE(n) -> answerRead(n) }
#if MAXD > 0
	:: d_step { READSAT(n, (n+1)%NODES) -> answerRead((n+1)%NODES) }
#if NODES > 2
	:: d_step { READSAT(n, (n+2)%NODES) -> answerRead((n+2)%NODES) }
#endif
#endif
#endif

	/* ---- the end of a process, and of a machine; the next start ---- */
	:: d_step { up[n] && inc[n] < MAXC -> die(); check() }
#ifndef NO_MACHINE
	:: d_step { up[n] && inc[n] < MAXC -> die(); data[n] = stable[n]; boot[n]++; check() }
#endif
	:: d_step { !up[n] -> start(0) }
#ifdef REGISTER_AGAIN
	:: d_step { !up[n] && !restored -> restored = true; start(1) }   /* a directory from a backup counts the same start again */
#endif
	od
}

active proctype Quorum() {
end:
	do
	:: d_step { p_kind[0] != P_FREE -> apply(k) }
	:: d_step { p_kind[0] != P_FREE -> free(0) }                     /* lost on the way */
#if SLOTS > 1
	:: d_step { p_kind[1] != P_FREE -> k = 1; apply(k) }
	:: d_step { p_kind[1] != P_FREE -> free(1) }
#endif
#ifdef FORCE
	/* the operator decides about a split: the set is kept, or a fork that lost nothing */
	:: d_step { h_fork[gen] != 0 && gen < MAXG -> advance(); h_fork[gen] = 0; behind = 0; check() }
	:: d_step { KEEPABLE(0) -> keepFork(0) }
	:: d_step { KEEPABLE(1) -> keepFork(1) }
#if NODES > 2
	:: d_step { KEEPABLE(2) -> keepFork(2) }
#endif
#endif
	od
}

init {
	d_step {
		h_prim[1] = 0;
#ifdef ONE_OUT
		h_set[1] = ALL & ~BIT(NODES-1);
#else
		h_set[1] = ALL;
#endif
		for (c : 0 .. NODES-1) { up[c] = true; disk[c] = true; promised[c] = 1; view[c] = 1 };
		serving[0] = true
	};
	atomic {
		run Node(0);
		run Node(1);
#if NODES > 2
		run Node(2)
#endif
	}
}
