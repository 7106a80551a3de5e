/* The code that the kernel maps into every process, vdso(7). */
#include "sys.h"

#include <linux/auxvec.h>
#include <linux/elf.h>

extern unsigned long getauxval(unsigned long type) __attribute__((weak));

void *vdso_function(const char *name)
{
	const char *image = getauxval ? (const char *)getauxval(AT_SYSINFO_EHDR) : NULL;
	const char *base = image, *names = NULL;
	const Elf64_Dyn *d = NULL;
	const Elf64_Sym *symbols = NULL;

	if (image == NULL)
		return NULL;
	const Elf64_Ehdr *head = (const Elf64_Ehdr *)image;
	const Elf64_Phdr *part = (const Elf64_Phdr *)(image + head->e_phoff);

	for (int i = 0; i < head->e_phnum; i++)
		if (part[i].p_type == PT_LOAD)
			base = image + part[i].p_offset - part[i].p_vaddr;
		else if (part[i].p_type == PT_DYNAMIC)
			d = (const Elf64_Dyn *)(image + part[i].p_offset);
	for (; d != NULL && d->d_tag != DT_NULL; d++)
		if (d->d_tag == DT_SYMTAB)
			symbols = (const Elf64_Sym *)(base + d->d_un.d_ptr);
		else if (d->d_tag == DT_STRTAB)
			names = base + d->d_un.d_ptr;
	if (symbols == NULL)
		return NULL;
	/* The names follow the symbols. */
	for (; (const char *)(symbols + 1) <= names; symbols++)
		if (symbols->st_shndx != SHN_UNDEF && same_text(names + symbols->st_name, name))
			return (void *)(uintptr_t)(base + symbols->st_value);
	return NULL;
}
