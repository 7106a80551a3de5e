/*
 * The protocol of a set, for spin: the fenced commit, helping, revoking, the
 * sleeper's cancel, offers (hand-over), Pending, removal and moving, with
 * processes that are killed, stopped and interrupted at every step.
 *
 * It follows client/preload line by line where it matters: each name below is
 * the function there. One semaphore; NU processes add 1 (or AMOUNT), NS take 1.
 * What is abstracted: a list of sleepers is one versioned word; there is one
 * log cell for each process, long enough; the fast path is one step. The
 * manager's part follows manager/object.go and move.go, and when it is killed
 * (DIES), the next one's manager/recovery.go.
 *
 * A step of the model is one access to shared memory. A killed process takes
 * no further step and the manager clears up after it; a stopped one takes none
 * either, and nobody clears up: everybody else must get on all the same.
 */
#ifndef NS
#define NS 1
#endif
#ifndef NU
#define NU 1
#endif
#ifndef AMOUNT
#define AMOUNT 1
#endif
#ifndef KILLS
#define KILLS 0
#endif
#ifndef STOPS
#define STOPS 0
#endif
#ifndef SIGNALS
#define SIGNALS 0
#endif
#ifndef DIES /* the manager, once */
#define DIES 0
#endif
#ifndef REVOKES /* of the living */
#define REVOKES 1
#endif

#ifndef EPOCHS /* histories end here */
#define EPOCHS 8
#endif

#define MANAGER (NS + NU)
#define NEXT (MANAGER + DIES) /* the manager after it */
#define NP (NEXT + 1)

/* Words: value and version. */
#define SEM 0
#define LIST 1
#define PENDING 2
#define CELL(i) (3 + (i))
#define WORDS (3 + NS)
byte val[WORDS];
byte ver[WORDS];

/* SEM: value | SLOW | DEAD. LIST: first sleeper + 1, then 4 times the second. */
#define SLOW 16
#define DEAD 32
#define VALUE(w) ((w) & 15)

/* States of cells. */
#define FREE_CELL 0
#define OWNED 1
#define WAITING 2
#define RETRY 3
#define CLAIMED 4
#define DONE 5
#define CANCELLED 6
#define DONE_REMOVED 7
#define DONE_MOVED 8
#define SLEEPS(s) ((s) == WAITING || (s) == RETRY || (s) == CLAIMED)
#define SERVED(s) ((s) == DONE || (s) == DONE_REMOVED || (s) == DONE_MOVED)

/* The lock word. */
#define FREE 0
#define HELD 1
#define COMMITTED 2
byte l_state, l_owner, l_epoch;

/* The object's state in its header, and its slot in the table. */
byte object; /* 0, 1 removed, 2 moved */
bool slot = true;
bool published; /* the record of the fresh file that a move made */

typedef Entry {
	byte word;
	byte old;
	byte oldver;
	byte new
}
#define ENTRIES 5
#define READY 1
#define NOTED 2
typedef Log {
	byte n;
	Entry e[ENTRIES];
	byte outcome;
	byte epoch; /* of the outcome: one word with it */
	bool own    /* (ghost) it carries out its owner's call */
}
Log log[NP];

bool asleep[NP]; /* in FUTEX_WAIT */
bool signalled[NP];
bool gone[NP]; /* killed or stopped */
bool reap[NP]; /* killed: the manager is told */
bool over[NP]; /* its call returned */
bool cut; /* the history is long enough: RETRY and WAITING may follow each other for ever */
byte dies = DIES, kills = KILLS, stops = STOPS, signals = SIGNALS, revokes = REVOKES;

/* Ghosts: what has been committed. */
byte g_value;
byte g_commits[NP];
byte g_copied = 255;

inline ghost_commit(who)
{
	d_step {
		assert(g_copied == 255); /* nothing happens after a move */
		g = 0;
		do
		:: g < log[who].n ->
			if
			:: log[who].e[g].word == SEM ->
				g_value = g_value + VALUE(log[who].e[g].new) - VALUE(log[who].e[g].old)
			:: log[who].e[g].word >= CELL(0) && log[who].e[g].new == DONE ->
				g_commits[log[who].e[g].word - CELL(0)]++;
				assert(g_commits[log[who].e[g].word - CELL(0)] == 1)
			:: else
			fi;
			g++
		:: else -> break
		od;
		g = 0;
		if
		:: log[who].own -> g_commits[who]++; assert(g_commits[who] == 1)
		:: else
		fi
	}
}

/* Nobody has the lock any more, so all that was committed is carried out. */
inline ghost_released() { assert(VALUE(val[SEM]) == g_value) }

/* entries_apply, of mine[] */
inline entries_apply(n)
{
	k = 0;
	do
	:: k < n ->
		d_step {
			if
			:: val[mine[k].word] == mine[k].old && ver[mine[k].word] == mine[k].oldver ->
				val[mine[k].word] = mine[k].new;
				ver[mine[k].word]++
			:: mine[k].word == SEM && !(mine[k].old & DEAD) && val[SEM] == (mine[k].old | DEAD) && ver[SEM] == mine[k].oldver ->
				val[SEM] = mine[k].new | DEAD;
				ver[SEM]++
			:: else
			fi;
			k++
		}
	:: else -> break
	od;
	k = 0
}

/* help: carry out what (h_owner, h_epoch) committed. Uses copy[]. */
inline help()
{
	d_step { h_n = log[h_owner].n; k = 0 }
	do
	:: k < h_n ->
		d_step {
			copy[k].word = log[h_owner].e[k].word;
			copy[k].old = log[h_owner].e[k].old;
			copy[k].oldver = log[h_owner].e[k].oldver;
			copy[k].new = log[h_owner].e[k].new;
			k++
		}
	:: else -> break
	od;
	if
	:: l_state == COMMITTED && l_owner == h_owner && l_epoch == h_epoch ->
		k = 0;
		do
		:: k < h_n ->
			d_step {
				if
				:: val[copy[k].word] == copy[k].old && ver[copy[k].word] == copy[k].oldver ->
					val[copy[k].word] = copy[k].new;
					ver[copy[k].word]++
				:: copy[k].word == SEM && !(copy[k].old & DEAD) && val[SEM] == (copy[k].old | DEAD) && ver[SEM] == copy[k].oldver ->
					val[SEM] = copy[k].new | DEAD;
					ver[SEM]++
				:: else
				fi;
				k++
			}
		:: else -> break
		od;
		/* note_outcome */
		skip;
		d_step {
			if
			:: log[h_owner].outcome == READY && log[h_owner].epoch == h_epoch -> log[h_owner].outcome = NOTED
			:: else
			fi
		};
		d_step {
			if
			:: l_state == COMMITTED && l_owner == h_owner && l_epoch == h_epoch ->
				l_state = FREE; l_epoch++;
				ghost_released()
			:: else
			fi
		}
	:: else
	fi;
	d_step { k = 0; h_n = 0 }
}

/* txn_lock: epoch is ours then. */
inline txn_lock()
{
	do
	:: atomic { l_state == FREE -> l_state = HELD; l_owner = id; epoch = l_epoch; n = 0; hand = 0; cut = cut || epoch >= EPOCHS; break }
	:: atomic { l_state == COMMITTED -> h_owner = l_owner; h_epoch = l_epoch }; help()
	:: atomic {
		l_state == HELD && (l_owner == id || gone[l_owner] || over[l_owner] || revokes > 0) ->
		if
		:: l_owner == id || gone[l_owner] || over[l_owner]
		:: else -> revokes--
		fi;
		l_state = FREE; l_epoch++;
		ghost_released()
	}
	od
}

inline txn_abort()
{
	d_step {
		if
		:: l_state == HELD && l_owner == id && l_epoch == epoch -> l_state = FREE; l_epoch++; ghost_released()
		:: else
		fi
	}
}

inline put(pw, po, pov, pnw)
{
	d_step { mine[n].word = pw; mine[n].old = po; mine[n].oldver = pov; mine[n].new = pnw; n++ }
}

/* txn_claim of sleeper c: ok, and its version then. */
inline txn_claim(c)
{
	d_step { ok = false; c_s = val[CELL(c)]; c_v = ver[CELL(c)] };
	if
	:: SLEEPS(c_s) ->
		if
		:: l_state == HELD && l_owner == id && l_epoch == epoch ->
			d_step {
				if
				:: val[CELL(c)] == c_s && ver[CELL(c)] == c_v ->
					val[CELL(c)] = CLAIMED; ver[CELL(c)]++; c_v++; ok = true
				:: else
				fi
			}
		:: else
		fi
	:: else
	fi
}

/* scan_sleepers, in the view v, vv (semaphore), l, lv (list) of the
 * transaction; puts the entries of what it serves. */
inline scan_sleepers(but)
{
	d_step { at = 0; pend = false; sleepers = 0 };
	do
	:: at < 2 ->
		d_step { c = (at == 0 -> l % 4 : l / 4); c_s = 0; if :: c > 0 -> c_s = val[CELL(c - 1)] :: else fi };
		if
		:: c == 0 || c - 1 == but -> at++
		:: else ->
			if
			:: (c_s == WAITING || c_s == CLAIMED) && VALUE(v) > 0 && hand == 0 ->
				txn_claim(c - 1);
				if
				:: ok -> d_step {
						hand = c; hand_ver = c_v; v = v - 1;
						l = (l % 4 == c -> l / 4 : l % 4);
						at = 0
					}
				:: else -> sleepers = 1; at++
				fi
			:: (c_s == WAITING || c_s == CLAIMED) && VALUE(v) > 0 && hand != 0 ->
				d_step { pend = true; sleepers = 1; at = 2 }
			:: else -> d_step { if :: SLEEPS(c_s) -> sleepers = 1 :: else fi; at++ }
			fi
		fi
	:: else -> break
	od;
	skip;
	d_step { at = 0; c = 0 }
}

/* Entries of a transaction that changes the semaphore to v (words_settle: SLOW
 * stays while somebody sleeps), the list to l; the states of cells last. */
inline put_changes()
{
	d_step {
		v = (sleepers > 0 -> VALUE(v) | SLOW | (v & DEAD) : VALUE(v) | (v & DEAD))
	};
	put(SEM, v0, vv, v);
	if
	:: l != l0 -> put(LIST, l0, lv, l)
	:: else
	fi;
	if
	:: pend != (p0 == 1) -> put(PENDING, p0, pv, pend)
	:: else
	fi;
	if
	:: hand != 0 -> put(CELL(hand - 1), CLAIMED, hand_ver, DONE)
	:: else
	fi
}

/* txn_commit: ok, or it has to start over. */
inline txn_commit(carries)
{
	k = 0;
	do
	:: k < n ->
		d_step {
			log[id].e[k].word = mine[k].word; log[id].e[k].old = mine[k].old;
			log[id].e[k].oldver = mine[k].oldver; log[id].e[k].new = mine[k].new;
			k++
		}
	:: else -> break
	od;
	skip;
	d_step { log[id].n = n; log[id].own = carries; k = 0; ok = true };
	/* offer */
	if
	:: hand != 0 ->
		d_step { log[id].outcome = READY; log[id].epoch = epoch };
		d_step { /* FUTEX_WAKE */
			if
			:: asleep[hand - 1] -> asleep[hand - 1] = false; woke = true
			:: else -> woke = false
			fi
		};
#ifdef PLANT_WAKE /* a sleeper that was not asleep is served all the same */
		woke = true;
#endif
		if
		:: !woke ->
			d_step {
				if
				:: l_state == HELD && l_owner == id && l_epoch == epoch -> l_epoch++; epoch++; ok = false
				:: else
				fi
			};
			if
			:: !ok ->
				d_step {
					if
					:: val[CELL(hand - 1)] == CLAIMED && ver[CELL(hand - 1)] == hand_ver ->
						val[CELL(hand - 1)] = RETRY; ver[CELL(hand - 1)]++
					:: else
					fi
				};
				txn_abort()
			:: else
			fi
		:: else
		fi
	:: else
	fi;
	if
	:: ok ->
		atomic {
			if
#ifdef PLANT_FENCE /* the commit is a store, not an exchange */
			:: true -> l_state = COMMITTED; l_owner = id; l_epoch = epoch; ghost_commit(id)
#else
			:: l_state == HELD && l_owner == id && l_epoch == epoch -> l_state = COMMITTED; ghost_commit(id)
			:: else -> ok = false
#endif
			fi
		};
		/* accepted */
		if
		:: !ok && hand != 0 ->
			if
			:: l_state == COMMITTED && l_owner == id && l_epoch == epoch -> ok = true
			:: else ->
				if
				:: log[id].outcome == NOTED && log[id].epoch == epoch -> ok = true
				:: else
				fi
			fi
		:: else
		fi;
		if
		:: ok ->
			entries_apply(n);
			d_step {
				if
				:: l_state == COMMITTED && l_owner == id && l_epoch == epoch ->
					l_state = FREE; l_epoch++; ghost_released()
				:: else
				fi
			}
		:: else
		fi
	:: else
	fi;
	d_step { n = 0; hand = 0; woke = false; hand_ver = 0 }
}

/* What the transaction sees: the semaphore (frozen), the list, Pending. */
inline view()
{
	do
	:: atomic { (val[SEM] & (SLOW | DEAD)) -> v0 = val[SEM]; vv = ver[SEM]; break }
	:: atomic { !(val[SEM] & (SLOW | DEAD)) -> val[SEM] = val[SEM] | SLOW }
	od;
	skip;
	d_step { v = v0; l0 = val[LIST]; lv = ver[LIST]; l = l0 };
	d_step { p0 = val[PENDING]; pv = ver[PENDING] }
}

/* scan_rest, and the scan of who finds Pending set: the lock is held. */
inline scan_pending()
{
	view();
	scan_sleepers(9);
	put_changes();
	txn_commit(false)
}

inline scan_rest()
{
	do
	:: val[PENDING] == 1 && object == 0 ->
		txn_lock();
		if
		:: object == 0 && val[PENDING] == 1 -> scan_pending()
		:: else -> txn_abort(); break
		fi
	:: else -> break
	od
}

/* The short form (quick.h): the lock is not taken. ok: it happened. Else the
 * call takes the lock. */
inline quick(change, needs)
{
	ok = false;
#ifdef PLANT_QUICK_LATE /* the words are read before the lock is */
	view();
#endif
	if
	:: atomic { l_state == FREE -> epoch = l_epoch };
		if
		:: object == 0 && val[PENDING] == 0 && val[LIST] == 0 ->
#ifndef PLANT_QUICK_LATE
			view();
#endif
			if
			:: !(v0 & DEAD) && VALUE(v0) >= needs ->
				d_step { n = 0; v = v0 + change };
				put(SEM, v0, vv, v);
				k = 0;
				do
				:: k < n ->
					d_step {
						log[id].e[k].word = mine[k].word; log[id].e[k].old = mine[k].old;
						log[id].e[k].oldver = mine[k].oldver; log[id].e[k].new = mine[k].new;
						k++
					}
				:: else -> break
				od;
				skip;
				d_step { log[id].n = n; log[id].own = true; k = 0 };
				atomic {
					if
#ifdef PLANT_QUICK_FENCE /* any free lock will do */
					:: l_state == FREE -> epoch = l_epoch;
#else
					:: l_state == FREE && l_epoch == epoch ->
#endif
						l_state = COMMITTED; l_owner = id; ok = true;
						ghost_commit(id)
					:: else
					fi
				};
				if
				:: ok ->
					entries_apply(n);
					d_step {
						if
						:: l_state == COMMITTED && l_owner == id && l_epoch == epoch ->
							l_state = FREE; l_epoch++; ghost_released()
						:: else
						fi
					}
				:: else
				fi
			:: else
			fi
		:: else
		fi
	:: l_state != FREE
	fi;
	skip;
	d_step { n = 0; k = 0 }
}

#define LOCALS \
	Entry mine[ENTRIES]; Entry copy[ENTRIES]; \
	byte n, k, g, h_owner, h_epoch, h_n, epoch, hand, hand_ver, c_s, c_v, at, c, sleepers; \
	byte v, v0, vv, l, l0, lv, p0, pv; bool ok, pend, woke

/* semop(+AMOUNT) */
proctype Up(byte id)
{
	LOCALS;
	{
		if
		:: atomic { !(val[SEM] & (SLOW | DEAD)) ->
			val[SEM] = val[SEM] + AMOUNT; ver[SEM]++; g_value = g_value + AMOUNT; g_commits[id]++ };
			goto returned
		:: (val[SEM] & (SLOW | DEAD))
#ifdef QUICK
		:: true -> /* several operations, or SEM_UNDO */
			quick(AMOUNT, 0);
			if
			:: ok -> goto returned
			:: else
			fi
#endif
		fi;
again:
		txn_lock();
		if
		:: object != 0 -> txn_abort(); goto returned
		:: else
		fi;
		if
		:: val[PENDING] == 1 -> scan_pending(); goto again
		:: else
		fi;
		view();
		if
		:: v0 & DEAD -> txn_abort(); goto returned
		:: else
		fi;
		v = v + AMOUNT;
		scan_sleepers(9);
		put_changes();
		txn_commit(true);
		if
		:: !ok -> goto again
		:: else -> scan_rest()
		fi;
returned:
		over[id] = true
	} unless { gone[id] || cut }
}

/* semop(-1) */
proctype Down(byte id)
{
	LOCALS;
	byte w, wv;
	bool listed, intr, woken, slept;
	{
		if
		:: atomic { !(val[SEM] & (SLOW | DEAD)) && VALUE(val[SEM]) > 0 ->
			val[SEM] = val[SEM] - 1; ver[SEM]++; g_value--; g_commits[id]++ };
			goto success
		:: (val[SEM] & (SLOW | DEAD)) || VALUE(val[SEM]) == 0
#ifdef QUICK
		:: true ->
			quick(-1, 1);
			if
			:: ok -> goto success
			:: else
			fi
#endif
		fi;
		val[CELL(id)] = OWNED;
again:		/* attempt */
		txn_lock();
		if
		:: object != 0 -> txn_abort(); goto ended
		:: else
		fi;
		if
		:: val[PENDING] == 1 -> scan_pending(); goto again
		:: else
		fi;
		if
		:: listed ->
			txn_claim(id);
			if
			:: !ok ->
				txn_abort();
				if
				:: SLEEPS(val[CELL(id)]) -> goto again
				:: else -> goto sleep
				fi
			:: else -> w = CLAIMED; wv = c_v
			fi
		:: else -> w = OWNED; wv = ver[CELL(id)]
		fi;
		view();
		if
		:: v0 & DEAD -> txn_abort(); goto ended
		:: else
		fi;
		if
		:: VALUE(v) == 0 ->
			if
			:: !listed ->
				l = (l0 == 0 -> id + 1 : l0 + 4 * (id + 1));
				put(LIST, l0, lv, l)
			:: else
			fi;
			put(CELL(id), w, wv, WAITING);
			txn_commit(false);
			if
			:: !ok -> goto again
			:: else -> listed = true; goto sleep
			fi
		:: else ->
			v = v - 1;
			if
			:: listed -> l = (l % 4 == id + 1 -> l / 4 : (l / 4 == id + 1 -> l % 4 : l))
			:: else
			fi;
			scan_sleepers(id);
			put_changes();
			if
			:: listed -> put(CELL(id), w, wv, OWNED)
			:: else
			fi;
			txn_commit(true);
			if
			:: !ok -> goto again
			:: else -> scan_rest(); goto success
			fi
		fi;

sleep:		/* sleep_on */
		skip;
		d_step { intr = false; woken = false };
#ifndef PLANT_SLOT /* removal is not looked for after the cell began to wait */
		if
		:: !slot -> intr = true
		:: else
		fi;
#endif
		do
		:: !intr ->
			d_step { w = val[CELL(id)]; wv = ver[CELL(id)] };
			if
			:: w == CLAIMED ->
				if
				:: woken -> /* offer_accept */
					d_step { h_owner = l_owner; h_epoch = l_epoch; c = l_state; ok = false };
					if
					:: c == COMMITTED -> help()
					:: c == HELD && log[h_owner].outcome == READY && log[h_owner].epoch == h_epoch ->
						k = 0;
						do
						:: k < log[h_owner].n ->
							d_step {
								if
								:: log[h_owner].e[k].word == CELL(id) && log[h_owner].e[k].old == CLAIMED && log[h_owner].e[k].oldver == wv -> ok = true
								:: else
								fi;
								k++
							}
						:: else -> break
						od;
						k = 0;
						atomic {
							if
							:: ok && l_state == HELD && l_owner == h_owner && l_epoch == h_epoch -> l_state = COMMITTED; ghost_commit(h_owner)
							:: else -> ok = false
							fi
						};
						if
						:: ok -> help()
						:: else -> break
						fi
					:: else -> break
					fi
				:: !woken ->
					if
					:: val[CELL(id)] != CLAIMED || ver[CELL(id)] != wv
					:: true -> break
					fi
				fi
			:: w == CANCELLED -> intr = true
			:: w == WAITING ->
				atomic {
					if
					:: val[CELL(id)] == WAITING && ver[CELL(id)] == wv -> asleep[id] = true; slept = true
					:: else -> slept = false
					fi
				};
end_asleep:			if
				:: atomic { !asleep[id] && signalled[id] -> signalled[id] = false; intr = true }
				:: atomic { !asleep[id] && !signalled[id] -> woken = slept };
					if
					:: woken && val[CELL(id)] == WAITING && ver[CELL(id)] == wv -> break
					:: else
					fi
				fi
			:: else -> break
			fi
		:: intr -> /* cancel */
			d_step { w = val[CELL(id)]; wv = ver[CELL(id)] };
			if
			:: w == WAITING || w == RETRY ->
				d_step {
					if
					:: val[CELL(id)] == w && ver[CELL(id)] == wv -> val[CELL(id)] = CANCELLED; ver[CELL(id)]++; w = CANCELLED
					:: else -> w = WAITING
					fi
				};
				if
				:: w == CANCELLED -> break
				:: else
				fi
			:: else -> break
			fi
		od;
		if
		:: val[CELL(id)] == DONE -> goto success
		:: val[CELL(id)] == DONE_REMOVED || val[CELL(id)] == DONE_MOVED -> goto ended
		:: !SERVED(val[CELL(id)]) && !intr -> goto again
		:: !SERVED(val[CELL(id)]) && intr
		fi;

leave:		/* wait_leave */
		if
		:: !SLEEPS(val[CELL(id)]) && val[CELL(id)] != CANCELLED -> goto interrupted
		:: else
		fi;
		txn_lock();
		if
		:: object != 0 -> txn_abort(); goto interrupted
		:: else
		fi;
		d_step { w = val[CELL(id)]; wv = ver[CELL(id)] };
		if
		:: SLEEPS(w) ->
			txn_claim(id);
			if
			:: !ok -> txn_abort(); goto leave
			:: else -> w = CLAIMED; wv = c_v
			fi
		:: w == CANCELLED
		:: else -> txn_abort(); goto interrupted
		fi;
		d_step { l0 = val[LIST]; lv = ver[LIST] };
		if
		:: l0 % 4 == id + 1 -> put(LIST, l0, lv, l0 / 4)
		:: l0 % 4 != id + 1 && l0 / 4 == id + 1 -> put(LIST, l0, lv, l0 % 4)
		:: else
		fi;
		put(CELL(id), w, wv, OWNED);
		txn_commit(false);
		if
		:: !ok -> goto leave
		:: else
		fi;
interrupted:
		/* EINTR: nothing was taken. Unless the object is going. */
		assert(g_commits[id] == 0 || object != 0);
		goto ended;
success:
		assert(g_commits[id] == 1);
ended:
		over[id] = true
	} unless { gone[id] || cut }
}

/* Clears up after the dead, and removes or moves the object. */
proctype Manager()
{
	LOCALS;
	byte id = MANAGER, who, w, wv;
	bool dying;
	do
	:: cut -> break
	:: else -> {
#if defined(REMOVE) || defined(MOVE)
	dying = true;
#endif
#if DIES
	if
	:: id == NEXT ->
		/* What the table does not name is litter, and its sleepers are told
		 * (wakeInLitter). What is closed is opened again by moving it. Else the
		 * request counts as not done, and its client makes it again. */
#ifdef REMOVE
		if
#ifdef PLANT_LITTER /* litter is only unlinked */
		:: !slot -> dying = false
#else
		:: !slot -> dying = false; goto die
#endif
		:: else
		fi;
#endif
#ifdef MOVE
		if
#ifdef PLANT_LITTER
		:: published -> dying = false
#else
		:: published -> dying = false; goto wake
#endif
		:: !slot && !published -> dying = false; goto die
		:: else
		fi;
#endif
		/* buryDead */
		d_step {
			who = 0;
			do
			:: who < NS + NU -> reap[who] = reap[who] || (KILLS > 0 && gone[who]); who++
			:: else -> who = 0; break
			od
		}
	:: else
	fi;
#endif
end_idle:
	do
	:: atomic { reap[0] && NS > 0 -> who = 0; reap[0] = false }; goto bury
#if MANAGER > 1
	:: atomic { reap[1] -> who = 1; reap[1] = false }; goto bury
#endif
#if MANAGER > 2
	:: atomic { reap[2] -> who = 2; reap[2] = false }; goto bury
#endif
#if MANAGER > 3
	:: atomic { reap[3] -> who = 3; reap[3] = false }; goto bury
#endif
	:: dying -> dying = false; goto die
	od;

bury:	/* ReapSession: ends what the dead left in the lock and in the list, then scans */
	txn_lock();
	if
	:: object != 0 -> txn_abort(); goto end_idle
	:: else
	fi;
	if
	:: who < NS && (val[LIST] % 4 == who + 1 || val[LIST] / 4 == who + 1) ->
		w = val[CELL(who)];
		if
		:: SLEEPS(w) ->
			txn_claim(who);
			if
			:: !ok -> txn_abort(); goto bury
			:: else -> w = CLAIMED; wv = c_v
			fi
		:: else -> wv = ver[CELL(who)]
		fi;
		view();
		l = (l0 % 4 == who + 1 -> l0 / 4 : (l0 / 4 == who + 1 -> l0 % 4 : l0));
		scan_sleepers(who);
		put_changes();
		put(CELL(who), w, wv, OWNED);
		txn_commit(false)
	:: else ->
		view();
		scan_sleepers(9);
		put_changes();
		txn_commit(false)
	fi;
	if
	:: !ok -> goto bury
	:: else -> scan_rest()
	fi;
	goto end_idle;

die:
#ifdef REMOVE
	slot = false;
	object = 1;
	atomic { val[SEM] = val[SEM] | DEAD };
#endif
#ifdef MOVE
	slot = false; /* Closing is published */
	object = 2;
	atomic { val[SEM] = val[SEM] | DEAD };
	/* Take the lock for good: who takes it after that finds the object gone. */
#ifndef PLANT_MOVE
	txn_lock();
#endif
	over[id] = true;
	skip;
	d_step { assert(l_state != COMMITTED); g_copied = VALUE(val[SEM]); assert(g_copied == g_value) };
	published = true;
wake:
#endif
	who = 0;
	do
	:: who < NS ->
		d_step { w = val[CELL(who)]; wv = ver[CELL(who)] };
		if
		:: SLEEPS(w) ->
			d_step {
				ok = false;
				if
				:: val[CELL(who)] == w && ver[CELL(who)] == wv ->
#ifdef MOVE
					assert(g_commits[who] == 0);
					val[CELL(who)] = DONE_MOVED;
#else
					val[CELL(who)] = DONE_REMOVED;
#endif
					ver[CELL(who)]++; ok = true
				:: else
				fi
			};
			if
			:: ok -> asleep[who] = false; who++
			:: else
			fi
#ifndef PLANT_DONE /* who has its result, by a manager killed before it woke it, is not woken */
		:: SERVED(w) -> asleep[who] = false; who++
		:: !SLEEPS(w) && !SERVED(w) -> who++
#else
		:: else -> who++
#endif
		fi
	:: else -> break
	od;
	goto end_idle
	} unless { gone[id] || cut };
	d_step { /* the next one knows nothing */
		id = NEXT;
		n = 0; g = 0; h_owner = 0; h_epoch = 0; h_n = 0; epoch = 0; hand = 0; hand_ver = 0; c_s = 0; c_v = 0;
		at = 0; c = 0; sleepers = 0; v = 0; v0 = 0; vv = 0; l = 0; l0 = 0; lv = 0; p0 = 0; pv = 0; who = 0; w = 0; wv = 0;
		ok = false; pend = false; woke = false;
		k = 0;
		do
		:: k < ENTRIES ->
			mine[k].word = 0; mine[k].old = 0; mine[k].oldver = 0; mine[k].new = 0;
			copy[k].word = 0; copy[k].old = 0; copy[k].oldver = 0; copy[k].new = 0;
			k++
		:: else -> k = 0; break
		od
	}
	od
}

/* What happens to processes from outside. */
proctype Fate()
{
	byte i;
end_fate:
	do
	:: cut -> break
	:: atomic { kills > 0 && i < NS + NU && !gone[i] && !over[i] -> kills--; gone[i] = true; asleep[i] = false; reap[i] = true }
#if DIES
	:: atomic { dies > 0 && !slot -> dies--; gone[MANAGER] = true }
#endif
	:: atomic { stops > 0 && i < NS + NU && !gone[i] && !over[i] -> stops--; gone[i] = true }
	:: atomic { signals > 0 && i < NS && asleep[i] && !gone[i] -> signals--; asleep[i] = false; signalled[i] = true }
	:: atomic { i + 1 < NS + NU && (kills + stops + signals) > 0 -> i++ }
	:: atomic { i > 0 && (kills + stops + signals) > 0 -> i = 0 }
	od
}

/* When nothing can happen any more. */
proctype Last()
{
	byte i;
end_last:
	timeout ->
	d_step {
		assert(cut || VALUE(val[SEM]) == g_value || l_state == COMMITTED);
		i = 0;
		do
		:: i < NS ->
			/* No lost wake-up. A stop in the midst of Pending delays the rest. */
			assert(cut || gone[i] || over[i] || object != 0 || VALUE(val[SEM]) == 0 || l_state != FREE);
			/* Nobody sleeps on in what is gone. */
			assert(cut || gone[i] || over[i] || (object == 0 && slot));
			i++
		:: else -> break
		od
	}
}

init {
	byte i;
	atomic {
		i = 0;
		do
		:: i < NS -> run Down(i); i++
		:: i < NS + NU && i >= NS -> run Up(i); i++
		:: else -> break
		od;
		run Manager();
		run Fate();
		run Last()
	}
}
