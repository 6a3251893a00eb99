/* Stands in for the kernel's configuration, so that bcc needs no kernel headers. */
#define CONFIG_BPF_SYSCALL 1
