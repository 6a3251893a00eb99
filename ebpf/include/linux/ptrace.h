/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Registers of a user task, as uprobe and perf event programs see them.
 * Stable: x86-64 struct pt_regs, arm64 struct user_pt_regs (include/uapi/asm/ptrace.h of either).
 */
#ifndef SLMTRACE_LINUX_PTRACE_H
#define SLMTRACE_LINUX_PTRACE_H

#if defined(__x86_64__)
struct pt_regs {
	unsigned long r15, r14, r13, r12, bp, bx;
	unsigned long r11, r10, r9, r8, ax, cx, dx, si, di;
	unsigned long orig_ax, ip, cs, flags, sp, ss;
};
#elif defined(__aarch64__)
struct pt_regs {
	unsigned long regs[31], sp, pc, pstate;
};
#endif

/* include/uapi/linux/bpf_perf_event.h */
struct bpf_perf_event_data {
	struct pt_regs regs;
	unsigned long long sample_period;
	unsigned long long addr;
};

#endif
