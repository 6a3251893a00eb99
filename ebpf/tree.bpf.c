/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Which threads belong to the traced tree? Children are followed before they first run. */

/* Processes that have become another program: the collector looks at what it is. */
BPF_QUEUE(new_programs, u32, MAX_PROGRAMS);

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
	tgid = thread->tgid;
	new_programs.push(&tgid, 0);
	emit(RING_EXEC, tid, bpf_ktime_get_ns(), tgid, 0, 0, 0);
	return 0;
}

int on_exit(struct bpf_raw_tracepoint_args *ctx)
{
	u32 tid;
	struct thread *thread = current_thread(&tid);

	if (!thread)
		return 0;
	emit_folds(thread, tid);
	emit_with_comm(RING_EXIT, tid, thread->tgid, 0);
#ifndef WITH_SCHED
	threads.delete(&tid);
#endif
	return 0;
}
