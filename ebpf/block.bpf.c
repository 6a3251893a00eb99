/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * What did the block devices do, for whomever?
 *
 * block_io_start and block_io_done come once a request. Without them (before Linux 6.5), block_rq_issue comes again when
 * a request is requeued, and block_rq_complete for each part of one, so requests in flight are remembered; requests that
 * are merged were never issued, then.
 */
#define REQ_OP_MASK 0xff
#define NO_SECTOR (~0ULL) /* of a flush that writes nothing */
#define REQUEST_ALIGN 64 /* at least (blk_mq_alloc_rqs() in block/blk-mq.c) */
#define REQ_OP_DRV_IN 34 /* from here on: no I/O on sectors (include/linux/blk_types.h) */

/* Return the device, and above it what tells requests in flight apart: a merge in front changes the sector. */
static __always_inline u64 request_key(void *request)
{
	void *queue = READ_KERNEL(void *, request, OFF_request_q);
	void *disk = queue ? READ_KERNEL(void *, queue, OFF_request_queue_disk) : NULL;
	u64 number = (u64)request / REQUEST_ALIGN << 32;

	if (!disk)
		return number;
	return number | (u64)READ_KERNEL(u32, disk, OFF_gendisk_major) << 20 |
	       READ_KERNEL(u32, disk, OFF_gendisk_first_minor);
}

static __always_inline u64 operation_letter(u32 operation)
{
	switch (operation) {
	case 0:
		return 'R';
	case 1:
		return 'W';
	case 2:
		return 'F';
	case 3:
	case 5:
		return 'D';
	default:
		return 'N';
	}
}

static __always_inline int request_starts(void *request)
{
	u32 operation = READ_KERNEL(u32, request, OFF_request_cmd_flags) & REQ_OP_MASK;
	u64 sector = READ_KERNEL(u64, request, OFF_request_sector);

	if (operation >= REQ_OP_DRV_IN || sector == NO_SECTOR)
		return 0;
	emit(RING_BLOCK_START, bpf_get_current_pid_tgid(), bpf_ktime_get_ns(),
	     sector, READ_KERNEL(u32, request, OFF_request_data_len),
	     request_key(request), operation_letter(operation));
	return 0;
}

static __always_inline int request_ends(void *request, u64 is_merged)
{
	u32 operation = READ_KERNEL(u32, request, OFF_request_cmd_flags) & REQ_OP_MASK;
	u64 sector = READ_KERNEL(u64, request, OFF_request_sector);

	if (operation >= REQ_OP_DRV_IN || sector == NO_SECTOR)
		return 0;
	emit(RING_BLOCK_DONE, bpf_get_current_pid_tgid(), bpf_ktime_get_ns(),
	     sector, is_merged, request_key(request), 0);
	return 0;
}

/* The request becomes part of the one that ends where it begins (blk_mq_sched_try_merge() in block/blk-merge.c). */
int on_block_merge(struct bpf_raw_tracepoint_args *ctx)
{
	return request_ends((void *)ctx->args[0], 1);
}

#ifndef BLOCK_BY_ISSUE
int on_block_start(struct bpf_raw_tracepoint_args *ctx)
{
	return request_starts((void *)ctx->args[0]);
}

int on_block_done(struct bpf_raw_tracepoint_args *ctx)
{
	return request_ends((void *)ctx->args[0], 0);
}
#else
BPF_HASH(requests, u64, u8, 16384);

int on_block_start(struct bpf_raw_tracepoint_args *ctx)
{
	u64 request = ctx->args[0];
	u8 known = 1;

	if (requests.lookup(&request))
		return 0;
	requests.update(&request, &known);
	return request_starts((void *)request);
}

int on_block_done(struct bpf_raw_tracepoint_args *ctx)
{
	u64 request = ctx->args[0];

	if (!requests.lookup(&request) || (u32)ctx->args[2] < READ_KERNEL(u32, (void *)request, OFF_request_data_len))
		return 0;
	requests.delete(&request);
	return request_ends((void *)request, 0);
}
#endif
