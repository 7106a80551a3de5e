/* Rows 215 to 224: limits, sysctls, /proc/sysvipc and the tools that read it. Rows 44, 45, 104, 105
 * and 168, what happens at a limit, stand with their calls. */
#include "case.h"

static struct shminfo shm_limits(void)
{
	struct shminfo i;
	MUST(shmctl(0, IPC_INFO, (struct shmid_ds *)&i));
	return i;
}
static struct seminfo sem_limits(void)
{
	struct seminfo i;
	MUST(semctl(0, 0, IPC_INFO, (union semun){ .buf = &i }));
	return i;
}
static struct msginfo msg_limits(void)
{
	struct msginfo i;
	MUST(msgctl(0, IPC_INFO, (struct msqid_ds *)&i));
	return i;
}

#define NEED_SYSCTLS() \
	do { if (!may_set_limits()) SKIP("no sysctl sets the limits here"); } while (0)

ROW(215, "the default limits")
{
	if (limits_are_low())
		SKIP("the runner chose other limits");
	if (!limits_are_given() && !may_set_limits())
		SKIP("needs a namespace of its own");
	struct shminfo shm = shm_limits();
	struct seminfo sem = sem_limits();
	struct msginfo msg = msg_limits();
	EXPECT_EQ(shm.shmmax, ULONG_MAX - (1UL << 24));
	EXPECT_EQ(shm.shmall, ULONG_MAX - (1UL << 24));
	EXPECT_EQ(shm.shmmni, 4096);
	EXPECT_EQ(sem.semmsl, 32000);
	EXPECT_EQ(sem.semmns, 1024000000);
	EXPECT_EQ(sem.semopm, 500);
	EXPECT_EQ(sem.semmni, 32000);
	EXPECT_EQ(msg.msgmax, 8192);
	EXPECT_EQ(msg.msgmnb, 16384);
	EXPECT_EQ(msg.msgmni, 32000);
}

ROW(216, "lowered limits harm no existing object, only new ones")
{
	NEED_SYSCTLS();
	int segment = new_segment(100000), set = new_set(100), queue = new_queue();
	key_t key = free_key();
	int named = keep(SHM, MUST(shmget(key, 100000, IPC_CREAT | 0600)));
	MUST(send_size(queue, 1, 5000, 0));
	static const char *const low[][2] = {
		{ "shmmax", "10" }, { "shmall", "1" }, { "shmmni", "1" }, { "sem", "2 2 2 1" },
		{ "msgmax", "10" }, { "msgmnb", "10" }, { "msgmni", "1" },
	};
	for (int i = 0; i < 7; i++)
		MUST(set_limit(low[i][0], low[i][1]));
	EXPECT_ERR(shmget(IPC_PRIVATE, 1, 0600), ENOSPC);
	EXPECT_ERR(semget(IPC_PRIVATE, 1, 0600), ENOSPC);
	EXPECT_ERR(msgget(IPC_PRIVATE, 0600), ENOSPC);
	EXPECT_ERR(shmget(IPC_PRIVATE, 11, 0600), EINVAL);
	EXPECT_ERR(semget(IPC_PRIVATE, 3, 0600), EINVAL);
	char *m = MUST(shmat(segment, NULL, 0));
	EXPECT_EQ(fault(m + 99999, true), 0);
	EXPECT_EQ(shmget(key, 100000, 0600), named);
	EXPECT_OK(op1(set, 99, 1, 0));
	EXPECT_ERR(SEMOP(set, { 0, 1, 0 }, { 1, 1, 0 }, { 2, 1, 0 }), E2BIG);
	EXPECT_EQ(queue_stat(queue).msg_qbytes, 16384);
	EXPECT_ERR(send_size(queue, 1, 11, 0), EINVAL);
	EXPECT_OK(send_size(queue, 1, 10, IPC_NOWAIT));
	struct message got;
	EXPECT_EQ_OR_ERRNO(receive(queue, &got, 0, 0), 5000);
}

ROW(217, "the sysctls belong to the IPC namespace")
{
	NEED_SYSCTLS();
	MUST(set_limit("shmmni", "1234"));
	MUST(set_limit("sem", "11 2222 33 44"));
	MUST(set_limit("msgmax", "555"));
	pid_t p;
	CHILD(p) {
		MUST(unshare(CLONE_NEWIPC));
		EXPECT_EQ(shm_limits().shmmni, 4096);
		EXPECT_EQ(sem_limits().semmni, 32000);
		EXPECT_EQ(msg_limits().msgmax, 8192);
		MUST(set_limit("shmmni", "77"));
		EXPECT_EQ(shm_limits().shmmni, 77);
	}
	JOIN(p);
	EXPECT_EQ(shm_limits().shmmni, 1234);
	EXPECT_EQ(sem_limits().semmsl, 11);
	EXPECT_EQ(sem_limits().semmns, 2222);
	EXPECT_EQ(sem_limits().semopm, 33);
	EXPECT_EQ(sem_limits().semmni, 44);
	EXPECT_EQ(msg_limits().msgmax, 555);
}

ROW(218, "kernel.sem: a fourth value over 32768 or below 0 is ERANGE")
{
	NEED_SYSCTLS();
	EXPECT_OK(set_limit("sem", "250 32000 32 32768"));
	EXPECT_ERR(set_limit("sem", "250 32000 32 32769"), ERANGE);
	EXPECT_ERR(set_limit("sem", "250 32000 32 -1"), ERANGE);
	EXPECT_EQ(sem_limits().semmni, 32768);
}

ROW(219, "shmmni and msgmni over 32768 are EINVAL")
{
	NEED_SYSCTLS();
	EXPECT_OK(set_limit("shmmni", "32768"));
	EXPECT_OK(set_limit("msgmni", "32768"));
	EXPECT_ERR(set_limit("shmmni", "32769"), EINVAL);
	EXPECT_ERR(set_limit("msgmni", "32769"), EINVAL);
	EXPECT_EQ(shm_limits().shmmni, 32768);
	EXPECT_EQ(msg_limits().msgmni, 32768);
}

ROW(220, "*_next_id chooses the next id, once")
{
	NEED_SYSCTLS();
	static const char *const name[] = { "shm_next_id", "sem_next_id", "msg_next_id" };
	EACH_FAMILY(f) {
		char text[16];
		int id = (1234 << 15) + 567;
		snprintf(text, sizeof text, "%d", id);
		if (set_limit(name[f], text) < 0)
			SKIP("no %s in this kernel", name[f]);
		EXPECT_EQ_OR_ERRNO(get(f, IPC_PRIVATE, 1, 0600), id);
		int next = MUST(get(f, IPC_PRIVATE, 1, 0600));
		EXPECT(next >> 15 != 1234);
	}
}

/* The fields of the line of a /proc/sysvipc file whose second field is this id; their number. */
static int proc_line(const char *file, int id, const char *header, unsigned long field[24])
{
	char path[64], line[512], word[16];
	snprintf(path, sizeof path, "/proc/sysvipc/%s", file);
	FILE *f = fopen(path, "re");
	if (!f)
		SKIP("%s cannot be read here", path);
	EXPECT(fgets(line, sizeof line, f) != NULL);
	char names[256], *rest;
	snprintf(names, sizeof names, "%s", header);
	for (char *h = strtok_r(names, " ", &rest); h; h = strtok_r(NULL, " ", &rest))
		if (!strstr(line, h))
			FAIL("no %s in the header of %s", h, path);
	while (fgets(line, sizeof line, f)) {
		int n = 0, used = 0, width;
		while (n < 24 && sscanf(line + used, "%15s%n", word, &width) == 1) {
			/* The mode is octal, everything else decimal. */
			field[n] = strtoul(word, NULL, n == 2 ? 8 : 10);
			used += width;
			n++;
		}
		if (n > 1 && (int)field[1] == id) {
			fclose(f);
			return n;
		}
	}
	FAIL("id %d is not in %s", id, path);
}

static void as_any_reader(void)
{
	if (geteuid() == 0)
		become(STRANGER, STRANGER);
}

ROW(221, "/proc/sysvipc/shm lists every segment, to any reader")
{
	key_t key = free_key();
	unsigned long field[24];
	int id = keep(SHM, MUST(shmget(key, 10000, IPC_CREAT | 0600)));
	uid_t owner = geteuid();
	gid_t group = getegid();
	char *m = MUST(shmat(id, NULL, 0));
	m[0] = m[5000] = 1;
	pid_t p;
	CHILD(p) {
		MUST(shmdt(m));
		as_any_reader();
		EXPECT_EQ(proc_line("shm", id, "key shmid perms size cpid lpid nattch uid gid cuid cgid "
				    "atime dtime ctime rss swap", field), 16);
		EXPECT_EQ((int)field[0], key);
		EXPECT_EQ(field[2], 0600);
		EXPECT_EQ(field[3], 10000);
		EXPECT_EQ(field[4], getppid());
		EXPECT_EQ(field[5], getpid());
		EXPECT_EQ(field[6], 1);
		EXPECT_EQ(field[7], owner);
		EXPECT_EQ(field[10], group);
		EXPECT(field[11] > 0 && field[12] > 0 && field[13] > 0);
		EXPECT_EQ(field[14] + field[15], 2 * page_size());
	}
	JOIN(p);
}

ROW(222, "/proc/sysvipc/sem lists every set, to any reader")
{
	key_t key = free_key();
	unsigned long field[24];
	int set = keep(SEM, MUST(semget(key, 17, IPC_CREAT | 0640)));
	pid_t p;
	CHILD(p) {
		as_any_reader();
		EXPECT_EQ(proc_line("sem", set, "key semid perms nsems uid gid cuid cgid otime ctime", field), 10);
		EXPECT_EQ((int)field[0], key);
		EXPECT_EQ(field[2], 0640);
		EXPECT_EQ(field[3], 17);
		EXPECT_EQ(field[8], 0);
		EXPECT(field[9] > 0);
	}
	JOIN(p);
}

ROW(223, "/proc/sysvipc/msg lists every queue, to any reader")
{
	key_t key = free_key();
	unsigned long field[24];
	int q = keep(MSG, MUST(msgget(key, IPC_CREAT | 0600)));
	pid_t owner = getpid(), p;
	MUST(send_text(q, 1, "hello", 0));
	CHILD(p) {
		as_any_reader();
		EXPECT_EQ(proc_line("msg", q, "key msqid perms cbytes qnum lspid lrpid uid gid cuid cgid "
				    "stime rtime ctime", field), 14);
		EXPECT_EQ((int)field[0], key);
		EXPECT_EQ(field[2], 0600);
		EXPECT_EQ(field[3], 5);
		EXPECT_EQ(field[4], 1);
		EXPECT_EQ(field[5], owner);
		EXPECT_EQ(field[6], 0);
	}
	JOIN(p);
}

/* The title and the line of an id as they stand in a /proc/sysvipc file. */
static void proc_text(const char *file, int id, char title[512], char line[512])
{
	char path[64];
	int key, found;
	snprintf(path, sizeof path, "/proc/sysvipc/%s", file);
	FILE *f = fopen(path, "re");
	if (!f)
		SKIP("%s cannot be read here", path);
	EXPECT(fgets(title, 512, f) != NULL);
	while (fgets(line, 512, f))
		if (sscanf(line, "%d %d", &key, &found) == 2 && found == id) {
			fclose(f);
			return;
		}
	FAIL("id %d is not in %s", id, path);
}
#define EXPECT_TEXT(got, want) \
	do { MARK(); if (strcmp(got, want) != 0) FAIL("came '%s', expected '%s'", got, want); } while (0)

ROWS("221,222,223", "the text, letter by letter")
{
	char title[512], line[512], want[512];
	int id = keep(SHM, MUST(shmget((key_t)0xfedc1234, 12345, IPC_CREAT | 0640)));
	char *m = MUST(shmat(id, NULL, 0));
	m[0] = 1;
	struct shmid_ds s;
	MUST(shmctl(id, IPC_STAT, &s));
	proc_text("shm", id, title, line);
	EXPECT_TEXT(title, "       key      shmid perms                  size  cpid  lpid nattch   uid   gid  cuid  cgid"
		    "      atime      dtime      ctime                   rss                  swap\n");
	snprintf(want, sizeof want, "%10d %10d  %4o %21lu %5u %5u  %5lu %5u %5u %5u %5u %10llu %10llu %10llu %21lu %21lu\n",
		 (int)0xfedc1234, id, 0640, 12345UL, s.shm_cpid, s.shm_lpid, 1UL, geteuid(), getegid(), geteuid(), getegid(),
		 (long long)s.shm_atime, 0LL, (long long)s.shm_ctime, page_size(), 0UL);
	EXPECT_TEXT(line, want);

	struct semid_ds e;
	id = keep(SEM, MUST(semget((key_t)0xfedc1234, 250, IPC_CREAT | 0604)));
	MUST(op1(id, 3, 1, 0));
	MUST(semctl(id, 0, IPC_STAT, (union semun){ .buf = &e }));
	proc_text("sem", id, title, line);
	EXPECT_TEXT(title, "       key      semid perms      nsems   uid   gid  cuid  cgid      otime      ctime\n");
	snprintf(want, sizeof want, "%10d %10d  %4o %10u %5u %5u %5u %5u %10llu %10llu\n", (int)0xfedc1234, id, 0604, 250U,
		 geteuid(), getegid(), geteuid(), getegid(), (long long)e.sem_otime, (long long)e.sem_ctime);
	EXPECT_TEXT(line, want);

	struct msqid_ds q;
	id = keep(MSG, MUST(msgget((key_t)0xfedc1234, IPC_CREAT | 0777)));
	MUST(send_text(id, 1, "hello", 0));
	MUST(msgctl(id, IPC_STAT, &q));
	proc_text("msg", id, title, line);
	EXPECT_TEXT(title, "       key      msqid perms      cbytes       qnum lspid lrpid   uid   gid  cuid  cgid"
		    "      stime      rtime      ctime\n");
	snprintf(want, sizeof want, "%10d %10d  %4o  %10lu %10lu %5u %5u %5u %5u %5u %5u %10llu %10llu %10llu\n",
		 (int)0xfedc1234, id, 0777, (unsigned long)q.__msg_cbytes, q.msg_qnum, getpid(), 0, geteuid(), getegid(),
		 geteuid(), getegid(), (long long)q.msg_stime, 0LL, (long long)q.msg_ctime);
	EXPECT_TEXT(line, want);
}

static void sysctl_text(const char *name, char text[128])
{
	char path[64];
	snprintf(path, sizeof path, "/proc/sys/kernel/%s", name);
	int fd = MUST(open(path, O_RDONLY | O_CLOEXEC));
	ssize_t n = MUST(read(fd, text, 127));
	text[n] = 0;
	EXPECT_EQ(read(fd, text + n, 1), 0);
	close(fd);
}

ROWS("217,218,219", "what a sysctl reads, writes and refuses")
{
	NEED_SYSCTLS();
	char text[128];
	static const struct { const char *name, *text; int error; const char *after; } step[] = {
		{ "shmmax", "0x1000", 0, "4096\n" }, { "shmmax", " \n 010 junk", 0, "8\n" },
		{ "shmmax", "-1", EINVAL, "8\n" }, { "shmmax", "", 0, "8\n" }, { "shmmax", "  ", EINVAL, "8\n" },
		{ "shmmax", "12junk", EINVAL, "8\n" }, { "shmmax", "18446744073709551615", 0, "18446744073709551615\n" },
		{ "shmmax", "99999999999999999999", EINVAL, "18446744073709551615\n" },
		{ "sem", "250 32000", 0, "250\t32000\t500\t32000\n" },
		{ "sem", "\t11\t22 33\n44\n", 0, "11\t22\t33\t44\n" },
		{ "sem", "55 66 junk", EINVAL, "55\t66\t33\t44\n" },
		{ "sem", "77 88 99 40000", ERANGE, "77\t88\t99\t44\n" },
		{ "msgmax", "2147483647", 0, "2147483647\n" }, { "msgmax", "2147483648", EINVAL, "2147483647\n" },
		{ "msgmnb", "-5", EINVAL, "16384\n" }, { "msgmnb", "1 2", 0, "1\n" },
		{ "shm_rmid_forced", "2", EINVAL, "0\n" }, { "shm_rmid_forced", "1\n", 0, "1\n" },
		{ "sem_next_id", "-1", EINVAL, "-1\n" }, { "sem_next_id", "7", 0, "7\n" },
	};
	set_limit("sem", "32000 1024000000 500 32000");
	for (size_t i = 0; i < sizeof step / sizeof step[0]; i++) {
		if (step[i].error)
			EXPECT_ERR(set_limit(step[i].name, step[i].text), step[i].error);
		else
			EXPECT_OK(set_limit(step[i].name, step[i].text));
		sysctl_text(step[i].name, text);
		if (strcmp(text, step[i].after) != 0)
			FAIL("%s after '%s': '%s', expected '%s'", step[i].name, step[i].text, text, step[i].after);
	}
	pid_t p;
	CHILD(p) {
		become(STRANGER, STRANGER);
		EXPECT_ERR(set_limit("shmmni", "5"), EACCES);
		EXPECT_ERR(set_limit("msg_next_id", "5"), EACCES);
		sysctl_text("shmmni", text);
		EXPECT_EQ(access("/proc/sys/kernel/shmmni", R_OK), 0);
		EXPECT_ERR(access("/proc/sys/kernel/shmmni", W_OK), EACCES);
	}
	JOIN(p);
}

/* What a command prints, in a static buffer; a verdict when it fails. */
static const char *output_of(const char *command)
{
	static char text[1 << 16];
	FILE *f = popen(command, "re");
	size_t n = f ? fread(text, 1, sizeof text - 1, f) : 0;
	text[n] = 0;
	int status = f ? pclose(f) : -1;
	if (status != 0)
		FAIL("%s: status %d", command, status);
	return text;
}

static void need_tools(void)
{
	if (system("command -v ipcs ipcmk ipcrm >/dev/null 2>&1") != 0)
		SKIP("no ipcs, ipcmk, ipcrm here");
}

ROW(224, "ipcs shows the objects")
{
	need_tools();
	static const char *const option[] = { "-m", "-s", "-q" };
	EACH_FAMILY(f) {
		char command[64], want[32];
		key_t key = free_key();
		int id = MUST(get(f, key, 1, IPC_CREAT | 0600));
		snprintf(command, sizeof command, "ipcs %s", option[f]);
		snprintf(want, sizeof want, "0x%08x %d ", (unsigned)key, id);
		EXPECT(strstr(output_of(command), want) != NULL);
		snprintf(command, sizeof command, "ipcs %s -i %d", option[f], id);
		snprintf(want, sizeof want, "=%d", id);
		EXPECT(strstr(output_of(command), want) != NULL);
	}
	EXPECT(strstr(output_of("ipcs -u"), "Semaphore") != NULL);
	EXPECT(strstr(output_of("ipcs -l"), "Limits") != NULL);
}

ROW(224, "ipcmk makes them, ipcrm removes them")
{
	need_tools();
	static const char *const make[] = { "ipcmk -M 5000 -p 0640", "ipcmk -S 7 -p 0640", "ipcmk -Q -p 0640" };
	static const char *const remove[] = { "-m", "-s", "-q" };
	EACH_FAMILY(f) {
		char command[64];
		union any_ds ds;
		const char *colon = strrchr(output_of(make[f]), ':');
		EXPECT(colon != NULL);
		int id = keep(f, atoi(colon + 1));
		MUST(ctl(f, id, IPC_STAT, &ds));
		EXPECT_EQ(perm_of(f, &ds)->mode, 0640);
		snprintf(command, sizeof command, "ipcrm %s %d", remove[f], id);
		output_of(command);
		EXPECT_ERR(ctl(f, id, IPC_STAT, &ds), EINVAL);
	}
}

ROW(224, "lsipc sees them")
{
	if (system("command -v lsipc >/dev/null 2>&1") != 0)
		SKIP("no lsipc here");
	static const char *const option[] = { "-m", "-s", "-q" };
	EACH_FAMILY(f) {
		char command[64], want[32];
		int id = MUST(get(f, IPC_PRIVATE, 1, 0600));
		snprintf(command, sizeof command, "lsipc %s -i %d", option[f], id);
		snprintf(want, sizeof want, "%d", id);
		EXPECT(strstr(output_of(command), want) != NULL);
	}
}
