/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Which threads belong to the traced tree? Children are followed before they first run. */

/* Processes that have become another program: the collector looks at what it is. */
BPF_QUEUE(new_programs, u32, MAX_PROGRAMS);

/* include/linux/mm_types.h, include/linux/sched/coredump.h */
#define MMF_DUMPABLE_MASK 3
#define SUID_DUMP_USER 1

int on_fork(struct bpf_raw_tracepoint_args *ctx)
{
	void *child = (void *)ctx->args[1];
	u64 parent = bpf_get_current_pid_tgid();
	u32 tid, child_tid, child_tgid;
	struct thread *thread;

	if (!current_thread(&tid))
		return 0;
	child_tid = READ_KERNEL(u32, child, OFF_task_pid);
	child_tgid = READ_KERNEL(u32, child, OFF_task_tgid);
	follow(child_tid, child_tgid);
	thread = threads.lookup(&child_tid);
	if (thread) {
		thread->left_ns = bpf_ktime_get_ns();
		thread->is_off = 1;
	}
	emit(RING_FORK, tid, bpf_ktime_get_ns(), child_tid, child_tgid, parent >> 32, 0);
	return 0;
}

static __always_inline void emit_end(struct thread *thread, u32 tid, u32 wait_status)
{
	emit_folds(thread, tid);
	emit_with_comm(RING_EXIT, tid, thread->tgid, wait_status);
}

int on_exit(struct bpf_raw_tracepoint_args *ctx)
{
	void *task = (void *)ctx->args[0];
	u32 tid;
	struct thread *thread = current_thread(&tid);

	if (!thread)
		return 0;
	emit_end(thread, tid, READ_KERNEL(u32, task, OFF_task_exit_code));
#ifndef WITH_SCHED
	threads.delete(&tid);
#endif
	return 0;
}

#ifdef OFF_mm_flags
/*
 * Whether a program has just been started with rights that its caller had not: by a set-user-id bit, or capabilities of
 * its file. The kernel lets nobody dump it then (begin_new_exec() in fs/exec.c, commit_creds() in kernel/cred.c).
 */
static __always_inline bool is_privileged(void *task)
{
	void *mm = READ_KERNEL(void *, task, OFF_task_mm);

	return (READ_KERNEL(u64, mm, OFF_mm_flags) & MMF_DUMPABLE_MASK) != SUID_DUMP_USER;
}
#endif

int on_exec(struct bpf_raw_tracepoint_args *ctx)
{
	u32 old_tid = ctx->args[1];
	struct thread *thread, *old;
	u32 tid, tgid;

	thread = current_thread(&tid);
	/* A thread that execs takes over the thread id of its leader, which is gone. */
	if (old_tid != tid) {
		old = threads.lookup(&old_tid);
		if (old) {
			threads.update(&tid, old);
			threads.delete(&old_tid);
		}
		thread = threads.lookup(&tid);
	}
	if (!thread)
		return 0;
#ifdef OFF_mm_flags
	if (is_privileged((void *)ctx->args[0])) {
		emit_end(thread, tid, 0);
		threads.delete(&tid);
		return 0;
	}
#endif
	tgid = thread->tgid;
	new_programs.push(&tgid, 0);
	emit(RING_EXEC, tid, bpf_ktime_get_ns(), tgid, 0, 0, 0);
	return 0;
}
