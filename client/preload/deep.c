/*
 * Objects that are loaded with RTLD_DEEPBIND (PHP's extensions) find libc's functions
 * before this library's. Where that is what they would find, their references are
 * turned to this library's, as the dynamic linker binds those of all others.
 *
 * Only glibc knows the flag. It looks for a file by the run path of who calls dlopen,
 * by the return address: so dlopen is jumped to, but for what is loaded with the flag
 * and by a path, which needs no search. What the object's constructors call, before
 * dlopen is back, is libc's still.
 */
#include "ipcspace.h"

#include <linux/elf.h>

#define RTLD_LAZY 1
#define RTLD_NOLOAD 4
#define RTLD_DEEPBIND 8

/* link.h, for 64 bits. */
struct link_map {
	uintptr_t addr;
	const char *name;
	const Elf64_Dyn *ld;
	struct link_map *next, *prev;
};
struct phdr_info {
	uintptr_t addr;
	const char *name;
	const Elf64_Phdr *headers;
	uint16_t count;
};

#if defined(__x86_64__)
enum { R_WORD = 1, R_GLOB_DAT = 6, R_JUMP_SLOT = 7 };
#else
enum { R_WORD = 257, R_GLOB_DAT = 1025, R_JUMP_SLOT = 1026 };
#endif

typedef void *dlopen_function(const char *, int);
typedef int dlclose_function(void *);
typedef char *dlerror_function(void);
typedef int iterate_function(int (*)(struct phdr_info *, size_t, void *), void *);
extern const Elf64_Dyn own_dynamic[] __asm__("_DYNAMIC") __attribute__((visibility("hidden")));
extern const char own_header[] __asm__("__ehdr_start") __attribute__((visibility("hidden")));

/* The tables of a loaded object. */
struct tables {
	uintptr_t addr;
	const Elf64_Sym *symbols;
	const char *names;
	const uint32_t *hash;
	const Elf64_Rela *rela, *plt;
	size_t relas, plts;
};

/* Most objects' addresses are made whole by the dynamic linker, some are not. */
static const void *whole(uintptr_t addr, uint64_t value)
{
	return (const void *)(value < addr ? addr + value : value);
}

static struct tables tables_of(uintptr_t addr, const Elf64_Dyn *d)
{
	struct tables t = {.addr = addr};

	for (; d != NULL && d->d_tag != DT_NULL; d++)
		switch (d->d_tag) {
		case DT_SYMTAB: t.symbols = whole(addr, d->d_un.d_val); break;
		case DT_STRTAB: t.names = whole(addr, d->d_un.d_val); break;
		case DT_HASH: t.hash = whole(addr, d->d_un.d_val); break;
		case DT_RELA: t.rela = whole(addr, d->d_un.d_val); break;
		case DT_RELASZ: t.relas = d->d_un.d_val / sizeof *t.rela; break;
		case DT_JMPREL: t.plt = whole(addr, d->d_un.d_val); break;
		case DT_PLTRELSZ: t.plts = d->d_un.d_val / sizeof *t.plt; break;
		}
	return t;
}

/* This library's function of that name, 0: it has none. */
static uintptr_t own(const struct tables *t, const char *name)
{
	uint32_t count = t->hash[1]; /* nchain, of all symbols */

	for (uint32_t i = 1; i < count; i++)
		if (t->symbols[i].st_shndx != 0 && same_text(t->names + t->symbols[i].st_name, name))
			return t->addr + t->symbols[i].st_value;
	return 0;
}

struct relro {
	uintptr_t addr, begin, end;
};

static int find_relro(struct phdr_info *info, size_t size, void *to)
{
	struct relro *r = to;

	(void)size;
	if (info->addr != r->addr)
		return 0;
	for (uint16_t i = 0; i < info->count; i++)
		if (info->headers[i].p_type == PT_GNU_RELRO) {
			uintptr_t begin = info->addr + info->headers[i].p_vaddr;

			r->begin = begin & -PAGE;
			r->end = (begin + info->headers[i].p_memsz) & -PAGE;
		}
	return 1;
}

/* loaded: in whose scope names are looked up. */
static void turn(void *loaded, const struct tables *t, const struct tables *ours,
		 const Elf64_Rela *r, const struct relro *sealed)
{
	uint32_t type = (uint32_t)r->r_info;
	const char *name = t->names + t->symbols[r->r_info >> 32].st_name;

	if ((type != R_WORD && type != R_GLOB_DAT && type != R_JUMP_SLOT) || r->r_info >> 32 == 0)
		return;
	uintptr_t function = own(ours, name);
	if (function == 0 || dlsym(loaded, name) != libc_function(name))
		return;
	uintptr_t at = t->addr + r->r_offset, page = at & -PAGE;
	bool closed = at >= sealed->begin && at < sealed->end;

	if (closed && SYS3(__NR_mprotect, page, PAGE, PROT_READ | PROT_WRITE) < 0)
		return;
	__atomic_store_n((uintptr_t *)at, function + (type == R_WORD ? (uintptr_t)r->r_addend : 0),
			 __ATOMIC_RELEASE);
	if (closed)
		SYS3(__NR_mprotect, page, PAGE, PROT_READ);
}

static void turn_all(void *loaded, const struct link_map *object, const struct tables *ours)
{
	struct tables t = tables_of(object->addr, object->ld);
	struct relro sealed = {.addr = object->addr};

	if (t.symbols == NULL || t.names == NULL)
		return;
	((iterate_function *)libc_function("dl_iterate_phdr"))(find_relro, &sealed);
	for (size_t i = 0; i < t.relas; i++)
		turn(loaded, &t, ours, &t.rela[i], &sealed);
	for (size_t i = 0; i < t.plts; i++)
		turn(loaded, &t, ours, &t.plt[i], &sealed);
}

static bool is_path(const char *name)
{
	while (*name && *name != '/')
		name++;
	return *name != 0;
}

EXPORT void *dlopen(const char *name, int flags)
{
	dlopen_function *real = (dlopen_function *)libc_function("dlopen");

	if (real == NULL)
		return NULL;
	if (!(flags & RTLD_DEEPBIND) || flags & RTLD_NOLOAD || gnu_get_libc_version == NULL ||
	    name == NULL || !is_path(name))
		return real(name, flags); /* a jump: see above */
	void *before = real(name, RTLD_LAZY | RTLD_NOLOAD);
	struct link_map *object = real(name, flags);

	if (before != NULL) {
		((dlclose_function *)libc_function("dlclose"))(before);
		return object;
	}
	if (object == NULL)
		return NULL;
	struct tables ours = tables_of((uintptr_t)own_header, own_dynamic);

	/* And what it needs, which was loaded with it. */
	for (const struct link_map *m = object; m != NULL; m = m->next)
		turn_all(object, m, &ours);
	/* What was looked for in vain is no error of the program's. */
	((dlerror_function *)libc_function("dlerror"))();
	return object;
}
