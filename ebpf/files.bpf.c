/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Which file did a fault or a read touch, and how much of it had to be brought into the page cache? */

/* Attribute the innermost event in flight to a file. */
static __always_inline void mark_file(struct thread *thread, u32 device, u64 inode)
{
	struct frame *frame = thread->fault.start_ns ? &thread->fault : &thread->syscall;

	if (!frame->start_ns)
		return;
	frame->device = device;
	frame->inode = inode;
	frame->flags |= FAULT_FILE;
}

static __always_inline int touch_file(u32 device, u64 inode)
{
	u32 tid;
	struct thread *thread = current_thread(&tid);

	if (thread)
		mark_file(thread, device, inode);
	return 0;
}

int on_filemap_fault(void *ctx)
{
	return touch_file(FIELD(u32, mm_filemap_fault, s_dev), FIELD(u64, mm_filemap_fault, i_ino));
}

#ifdef OFF_mm_filemap_map_pages_i_ino
int on_filemap_map_pages(void *ctx)
{
	return touch_file(FIELD(u32, mm_filemap_map_pages, s_dev), FIELD(u64, mm_filemap_map_pages, i_ino));
}
#endif

#ifdef OFF_mm_filemap_get_pages_i_ino
int on_filemap_get_pages(void *ctx)
{
	return touch_file(FIELD(u32, mm_filemap_get_pages, s_dev), FIELD(u64, mm_filemap_get_pages, i_ino));
}
#endif

int on_filemap_add(void *ctx)
{
	u32 device = FIELD(u32, mm_filemap_add_to_page_cache, s_dev);
	u64 inode = FIELD(u64, mm_filemap_add_to_page_cache, i_ino);
	u32 tid, order = 0;
	struct thread *thread = current_thread(&tid);
	u64 now_ns;

	if (!thread)
		return 0;
#ifdef WITH_SYSCALLS
	/* Pages that write() makes are not read from the device. */
	if (thread->syscall.start_ns && !thread->fault.start_ns &&
	    syscall_rule(thread->syscall.key) & SYSCALL_WRITES)
		return 0;
#endif
#ifdef OFF_mm_filemap_add_to_page_cache_order
	order = FIELD(u8, mm_filemap_add_to_page_cache, order);
#endif
	mark_file(thread, device, inode);
	now_ns = bpf_ktime_get_ns();
	fold(thread, tid, FOLD_PAGE_CACHE_ADD, now_ns, now_ns, 0, (u64)PAGE_BYTES << (order & 31), device, inode);
	return 0;
}
