/* semget and semctl, as ipc/sem.c. */
#include "ctl.h"

enum {
	GETPID = ABI_SEM_GET_PID,
	GETVAL = ABI_SEM_GET_VAL,
	GETALL = ABI_SEM_GET_ALL,
	GETNCNT = ABI_SEM_GET_NCNT,
	GETZCNT = ABI_SEM_GET_ZCNT,
	SETVAL = ABI_SEM_SET_VAL,
	SETALL = ABI_SEM_SET_ALL,
	SEM_STAT = 18,
	SEM_INFO = 19,
	SEM_STAT_ANY = 20,
};

struct user_seminfo {
	int32_t semmap, semmni, semmns, semmnu, semmsl, semopm, semume, semusz, semvmx, semaem;
};

EXPORT int semget(int key, int nsems, int flags)
{
	if (unlikely(session_ready() < 0))
		return (int)finish(session_refused() ? -ENOSYS
						     : SYS3(__NR_semget, key, nsems, flags));
	if (nsems < 0 || (uint64_t)nsems > session.table->sem_msl)
		return (int)finish(-EINVAL);
	return (int)finish(get_object(ABI_SEM, (uint32_t)key, (uint64_t)nsems, flags));
}

/* Makes sure that no dead process's adjustment of sem (all: < 0) is still to
 * be applied, with the lock held. False: it was given up, start again. */
static bool undo_settled(struct txn *t, int sem, int *error)
{
	uint32_t dead = undo_dead_holder(t, sem);

	if (dead == 0)
		return true;
	txn_abort(t);
	*error = reap(t, dead);
	return false;
}

/* Takes the lock with nothing left to do for others. 0 or -errno. */
static int lock_settled(struct txn *t, int sem)
{
	for (;;) {
		int r = txn_lock(t);

		if (r < 0)
			return r;
		if (load64(&header_of(t->handle)->pending) & 1) {
			scan_sleepers(t, false);
			words_settle(t);
			txn_commit(t, false);
			continue;
		}
		if (undo_settled(t, sem, &r))
			return 0;
		if (r < 0)
			return r;
	}
}

/* A semaphore's word, of which nothing is under way. */
static int settled_word(struct handle *h, struct call *c, uint32_t sem, uint64_t *word)
{
	*word = load64(word_at(h, sem));
	if (likely(!(*word & (ABI_SEM_SLOW | ABI_SEM_DEAD))))
		return 0;
	struct txn t;
	int r = txn_init(&t, h, c, 0);

	if (r < 0)
		return r;
	r = lock_settled(&t, (int)sem);
	if (r == 0) {
		*word = load64(word_at(h, sem));
		txn_abort(&t);
	}
	txn_done(&t);
	return r;
}

/* Counts the sleepers that wait at sem for zero, or for more: by their first
 * blocking operation alone (count_semcnt in ipc/sem.c). */
static int count_sleepers(struct handle *h, struct call *c, uint32_t sem, bool zero)
{
	struct txn t;
	int r = txn_init(&t, h, c, 2 * (uint32_t)session.table->sem_opm), count;

	if (r < 0)
		return r;
	count = 0;
	r = lock_settled(&t, -1);
	if (r < 0)
		goto out;
	uint32_t at = link_cell(load64(&header_of(h)->wait_head));
	for (uint32_t n = 0; at != 0 && at <= h->cells && n < h->cells; n++) {
		struct abi_sleeper_cell *s = cell_at(h, at - 1);
		uint64_t state = load64(&s->state);
		struct ops ops = ops_of(h, at);
		uint32_t blocking;
		struct abi_sem_op op;

		t.n = t.mark = 0;
		t.full = false;
		if (cell_sleeps(state)) {
			int verdict = ops_apply(&t, &ops, cell_session(state), &blocking);

			if ((verdict == BLOCK || verdict == -EAGAIN) &&
			    ops_at(&ops, blocking, &op) && op.num == sem &&
			    (op.op == 0) == zero &&
			    ((s->flags & ABI_SLEEPER_DOORBELL)
				     ? !pulse_died(cell_session(state))
				     : sleeper_asleep(h, at)))
				count++;
		}
		at = link_cell(load64(&s->next));
	}
	txn_abort(&t);
	r = count;
out:
	txn_done(&t);
	return r;
}

static int get_all(struct handle *h, struct call *c, uint16_t *values)
{
	struct txn t;
	int r;

	if (!user_writable(c->thread, values, 2 * (size_t)h->sems))
		return -EFAULT;
	r = txn_init(&t, h, c, 0);
	if (r < 0)
		return r;
	do {
		r = lock_settled(&t, -1);
		if (r < 0)
			break;
		/* Frozen, all of them stand still while they are read. */
		for (uint32_t i = 0; i < h->sems; i++) {
			uint64_t w = load64(word_at(h, i));

			while (!(w & (ABI_SEM_SLOW | ABI_SEM_DEAD)) &&
			       !cas64(word_at(h, i), w, w | ABI_SEM_SLOW))
				w = load64(word_at(h, i));
			values[i] = (uint16_t)sem_value(w);
		}
		/* Who revoked this may have changed some in between. */
		r = txn_abort(&t) ? 0 : -EAGAIN;
	} while (r == -EAGAIN);
	txn_done(&t);
	return r;
}

/* SETVAL of one, or SETALL: everybody's adjustments go, sleepers are tried. */
static int set_values(struct handle *h, struct call *c, uint32_t first, uint32_t count,
		      const uint16_t *values)
{
	struct txn t;
	int r = txn_init(&t, h, c, count + h->cells);

	if (r < 0)
		return r;
	do {
		r = lock_settled(&t, count == 1 ? (int)first : -1);
		if (r < 0)
			break;
		for (uint32_t i = 0; i < count; i++) {
			uint64_t off = ABI_WORDS_OFF + 8 * (uint64_t)(first + i);
			uint64_t w = load64(word_at(h, first + i));

			while (!(w & (ABI_SEM_SLOW | ABI_SEM_DEAD)) &&
			       !cas64(word_at(h, first + i), w, w | ABI_SEM_SLOW))
				w = load64(word_at(h, first + i));
			w = load64(word_at(h, first + i));
			txn_put_new(&t, off, w, sem_next(w, values[i], session.number));
		}
		undo_clear(&t, count == 1 && h->sems > 1 ? (int)first : -1);
		txn_keep_all(&t);
		scan_sleepers(&t, true);
		/* Not before the commit: the sleeper may turn out to be awake. */
		bool completed = t.completed;
		words_settle(&t);
		r = txn_commit(&t, false);
		if (r == 0 && completed)
			__atomic_store_n(&header_of(h)->otime, now_seconds(), __ATOMIC_RELAXED);
	} while (r == -EAGAIN);
	if (r == 0)
		scan_rest(&t);
	if (r == 0)
		__atomic_store_n(&header_of(h)->ctime, now_seconds(), __ATOMIC_RELAXED);
	txn_done(&t);
	return r;
}

static long brokered(int id, int num, int cmd, int64_t value, const void *data, uint32_t len,
		     void *reply, uint32_t room)
{
	struct exchange x = {.request = {.kind = ABI_MSG_SEM_CTL,
					 .len = len,
					 .arg = {id, num, cmd, value}},
			     .data = data,
			     .reply_data = reply,
			     .reply_room = room};
	long r = channel_call(&x);

	return r < 0 ? r : x.reply.val[0];
}

static long info(int cmd, void *buf)
{
	const struct abi_table_header *t = session.table;
	struct user_seminfo i = {
		.semmap = 1024000000, .semmni = (int32_t)t->sem_mni, .semmns = (int32_t)t->sem_mns,
		.semmnu = 1024000000, .semmsl = (int32_t)t->sem_msl, .semopm = (int32_t)t->sem_opm,
		.semume = 500, .semusz = 20, .semvmx = ABI_SEM_VMX, .semaem = ABI_SEM_VMX};

	if (cmd == SEM_INFO) {
		i.semusz = (int32_t)load32(&t->in_use[ABI_SEM]);
		i.semaem = (int32_t)load64(&t->sems);
	}
	return ctl_store(buf, &i, sizeof i, ctl_max_index(ABI_SEM));
}

static bool stat_here(int id, struct user_semid *to)
{
	const struct abi_record *r;
	struct call c;

	call_begin(&c);
	struct handle *h = ctl_here(&c, ABI_SEM, id, to, sizeof *to, &r);

	if (h != NULL) {
		const struct abi_control_header *head = header_of(h);

		memset(to, 0, sizeof *to);
		ctl_record(&to->perm, r);
		to->otime = head->otime;
		to->ctime = head->ctime > r->ctime ? head->ctime : r->ctime;
		to->nsems = r->size;
		__atomic_thread_fence(__ATOMIC_ACQUIRE);
	}
	bool done = h != NULL && handle_valid(h);
	call_end(&c);
	return done;
}

static long stat_set(int id, int cmd, void *buf)
{
	struct abi_stat s;

	if (cmd == IPC_STAT && stat_here(id, buf))
		return 0;
	long result = ctl_stat(ABI_SEM, id, cmd, &s);
	if (result < 0)
		return result;
	struct user_semid u = {.otime = s.time[0], .ctime = s.time[2], .nsems = s.size};

	ctl_perm(&u.perm, &s);
	return ctl_store(buf, &u, sizeof u, result);
}

static long set_perm(int id, const void *buf)
{
	struct call c;

	call_begin(&c);
	bool readable = user_readable(c.thread, buf, sizeof(struct user_semid));

	call_end(&c);
	if (!readable)
		return -EFAULT;
	return ctl_set(ABI_SEM, id, &((const struct user_semid *)buf)->perm, NULL);
}

/* The commands on values, once the handle is there. */
static long on_values(struct handle *h, struct call *c, int num, int cmd, int value, uint16_t *array)
{
	uint32_t wanted = cmd == SETVAL || cmd == SETALL ? ABI_ACCESS_WRITE : ABI_ACCESS_READ;
	bool in_range = num >= 0 && (uint32_t)num < h->sems;
	uint64_t w;
	long r;

	if (cmd == SETVAL && !in_range)
		return -EINVAL;
	if (!(h->rights & wanted))
		return -EACCES;
	switch (cmd) {
	case GETALL:
		if (h->mem == NULL) {
			if (!user_writable(c->thread, array, 2 * (size_t)h->sems))
				return -EFAULT;
			return brokered((int)h->id, num, cmd, 0, NULL, 0, array, 2 * h->sems);
		}
		return get_all(h, c, array);
	case SETALL:
		if (!user_readable(c->thread, array, 2 * (size_t)h->sems))
			return -EFAULT;
		for (uint32_t i = 0; i < h->sems; i++)
			if (array[i] > ABI_SEM_VMX)
				return -ERANGE;
		if (h->mem == NULL)
			return brokered((int)h->id, num, cmd, 0, array, 2 * h->sems, NULL, 0);
		return set_values(h, c, 0, h->sems, array);
	}
	if (!in_range)
		return -EINVAL;
	if (h->mem == NULL)
		return brokered((int)h->id, num, cmd, value, NULL, 0, NULL, 0);
	switch (cmd) {
	case GETVAL:
		r = settled_word(h, c, (uint32_t)num, &w);
		return r < 0 ? r : (long)sem_value(w);
	case GETPID:
		r = settled_word(h, c, (uint32_t)num, &w);
		return r < 0 ? r : (long)table_pid(sem_session(w), 0);
	case GETNCNT:
	case GETZCNT:
		return count_sleepers(h, c, (uint32_t)num, cmd == GETZCNT);
	default: { /* SETVAL */
		uint16_t v = (uint16_t)value;

		return set_values(h, c, (uint32_t)num, 1, &v);
	}
	}
}

static long values_call(int id, int num, int cmd, unsigned long arg)
{
	struct call c;
	unsigned tries = 0;
	long r = -EINVAL;

	call_begin(&c);
	if (id < 0)
		goto out;
	r = -ERANGE;
	if (cmd == SETVAL && ((int)arg < 0 || (int)arg > ABI_SEM_VMX))
		goto out;
	for (;;) {
		int e = 0;
		struct handle *h = handle_get(ABI_SEM, id, &e);

		if (h == NULL) {
			struct abi_record rec;
			uint64_t slot;

			r = tries ? -EIDRM : e;
			if (e == -EACCES && cmd == SETVAL &&
			    table_record(ABI_SEM, (uint32_t)id, &rec, &slot) &&
			    (num < 0 || (uint64_t)num >= rec.size))
				r = -EINVAL;
			break;
		}
		r = on_values(h, &c, num, cmd, (int)arg, (uint16_t *)arg);
		if (r != -EIDRM || object_gone(h, &tries) < 0)
			break;
	}
out:
	call_end(&c);
	return r;
}

EXPORT int semctl(int id, int num, int cmd, ...)
{
	__builtin_va_list ap;
	unsigned long arg;
	long r;

	__builtin_va_start(ap, cmd);
	arg = __builtin_va_arg(ap, unsigned long);
	__builtin_va_end(ap);
	if (unlikely(session_ready() < 0))
		return (int)finish(session_refused() ? -ENOSYS : SYS4(__NR_semctl, id, num, cmd, arg));
	switch (cmd) {
	case GETPID:
	case GETVAL:
	case GETALL:
	case GETNCNT:
	case GETZCNT:
	case SETVAL:
	case SETALL:
		r = values_call(id, num, cmd, arg);
		break;
	case IPC_INFO:
	case SEM_INFO:
		r = id < 0 ? -EINVAL : info(cmd, (void *)arg);
		break;
	case IPC_STAT:
	case SEM_STAT:
	case SEM_STAT_ANY:
		r = id < 0 ? -EINVAL : stat_set(id, cmd, (void *)arg);
		break;
	case IPC_SET:
		r = id < 0 ? -EINVAL : set_perm(id, (const void *)arg);
		break;
	case IPC_RMID:
		r = id < 0 ? -EINVAL : ctl_remove(ABI_SEM, id);
		break;
	default:
		r = -EINVAL;
	}
	return (int)finish(r);
}
