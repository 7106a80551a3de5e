/*
 * One unmodified program that times the System V IPC calls. Each row is printed
 * as "name ns", the time of one round.
 *
 *	ipcbench [-s SCALE] [-n SIZE] ROW...
 *	ipcbench -small CMD...     runs CMD without transparent huge pages
 */
#include <sys/prctl.h>

#include "bench.h"

double scale = 1;
int size = 1;

void die(const char *what)
{
	fprintf(stderr, "ipcbench: %s: %s\n", what, strerror(errno));
	exit(1);
}

double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec * 1e9 + (double)ts.tv_nsec;
}

long rounds(long n)
{
	n = (long)((double)n * scale);
	return n < 10 ? 10 : n;
}

int new_set(int n)
{
	int id = semget(IPC_PRIVATE, n, 0600);

	MUST(id);
	return id;
}

int new_queue(void)
{
	int id = msgget(IPC_PRIVATE, 0600);

	MUST(id);
	return id;
}

void result(const char *row, const char *of, double value)
{
	printf("%s%s %.2f\n", row, of, value);
	fflush(stdout);
}

void child_of(void (*body)(void *), void *arg)
{
	pid_t k = fork();

	MUST(k);
	if (k == 0) {
		body(arg);
		_exit(0);
	}
}

void reap_all(void)
{
	int status;

	while (wait(&status) > 0)
		if (status != 0)
			die("a process failed");
}

static volatile int *stop;
static void burn(void *arg)
{
	(void)arg;
	while (!*stop)
		for (volatile int i = 0; i < 10000; i++)
			;
}
double busy(double (*row)(void))
{
	double kept = scale;

	stop = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pid_t k[2];
	for (int i = 0; i < 2; i++) {
		k[i] = fork();
		MUST(k[i]);
		if (k[i] == 0) {
			burn(NULL);
			_exit(0);
		}
	}
	scale /= 20;
	double *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	/* The row waits for all its children; the burners must not be among
	 * them, so it runs in a process of its own. */
	pid_t worker = fork();
	MUST(worker);
	if (worker == 0) {
		*shared = row();
		_exit(0);
	}
	waitpid(worker, NULL, 0);
	*stop = 1;
	for (int i = 0; i < 2; i++)
		waitpid(k[i], NULL, 0);
	scale = kept;
	return *shared;
}

static void run(const char *name)
{
	static const struct row *const tables[] = {sem_rows, msg_rows, shm_rows, process_rows,
						   growth_rows};

	for (size_t i = 0; i < sizeof tables / sizeof *tables; i++)
		for (const struct row *r = tables[i]; r->name; r++)
			if (strcmp(name, r->name) == 0) {
				double ns = r->run();

				if (ns >= 0)
					result(name, "", ns);
				return;
			}
	fprintf(stderr, "ipcbench: no row %s\n", name);
	exit(2);
}

int main(int argc, char **argv)
{
	int first = 1;

	if (argc > 2 && strcmp(argv[1], "-small") == 0) {
		MUST(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0));
		execvp(argv[2], argv + 2);
		die(argv[2]);
	}
	for (; first + 1 < argc && argv[first][0] == '-'; first += 2) {
		if (strcmp(argv[first], "-s") == 0)
			scale = atof(argv[first + 1]);
		else
			size = atoi(argv[first + 1]);
	}
	for (; first < argc; first++)
		run(argv[first]);
	return 0;
}
