/*
 * Names that the library defines in the place of libc's, out of the way of a program that is to have
 * both: for building its sources into a program with sanitizers.
 */
#define shmget ipcspace_shmget
#define shmat ipcspace_shmat
#define shmdt ipcspace_shmdt
#define shmctl ipcspace_shmctl
#define semget ipcspace_semget
#define semop ipcspace_semop
#define semtimedop ipcspace_semtimedop
#define semctl ipcspace_semctl
#define msgget ipcspace_msgget
#define msgsnd ipcspace_msgsnd
#define msgrcv ipcspace_msgrcv
#define msgctl ipcspace_msgctl
#define syscall ipcspace_syscall
#define unshare ipcspace_unshare
#define setns ipcspace_setns
#define chroot ipcspace_chroot
#define mmap ipcspace_mmap
#define mmap64 ipcspace_mmap64
#define munmap ipcspace_munmap
#define mremap ipcspace_mremap
#define mprotect ipcspace_mprotect
#define madvise ipcspace_madvise
#define remap_file_pages ipcspace_remap_file_pages
#define setuid ipcspace_setuid
#define setgid ipcspace_setgid
#define seteuid ipcspace_seteuid
#define setegid ipcspace_setegid
#define setreuid ipcspace_setreuid
#define setregid ipcspace_setregid
#define setresuid ipcspace_setresuid
#define setresgid ipcspace_setresgid
#define setgroups ipcspace_setgroups
#define capset ipcspace_capset
#define setfsuid ipcspace_setfsuid
#define setfsgid ipcspace_setfsgid
#define initgroups ipcspace_initgroups
