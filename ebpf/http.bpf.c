/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * When did the traced tree read a request, and when did it write the first byte of the answer's body?
 *
 * What is sent tells the roles: a server reads "POST " and writes "HTTP/1." on one descriptor, a client the reverse, and
 * what processes say to one another begins with neither. Only POSTs that are answered by 2xx count, and no content leaves
 * the kernel. A head that is written alone ends in an empty line; the body begins with the next write then. Chunks end in
 * an empty line too, which follows another or the last chunk's 0 (RFC 9112, "Chunked Transfer Coding").
 */

#define N_HTTP_CALLS 512
#define MAX_CONNECTIONS 4096
#define HEAD_BYTES 16
#define TAIL_BYTES 8

/* What a system call does with its second argument. */
#define HTTP_RECEIVES (1 << 0)
#define HTTP_SENDS (1 << 1)
#define HTTP_VECTOR (1 << 2) /* an array of struct iovec, not a buffer */
#define HTTP_MESSAGE (1 << 3) /* a struct msghdr */

#define AWAITS_HEAD 1
#define AWAITS_BODY 2

struct connection {
	u32 tgid;
	u32 fd;
};

struct piece {
	u64 start;
	u64 size_bytes;
};

/* The start of struct user_msghdr. */
struct message {
	u64 name;
	u64 name_bytes;
	u64 pieces;
	u64 n_pieces;
};

BPF_ARRAY(http_calls, u32, N_HTTP_CALLS);
/* Of those that never end, the oldest is forgotten. */
BPF_TABLE("lru_hash", struct connection, u8, http_connections, MAX_CONNECTIONS);

/* Find where the bytes of a call begin and end in the memory of its process. */
static __always_inline struct piece find_bytes(u32 call, u64 registers, u64 size_bytes)
{
	struct piece found = {.start = READ_KERNEL(u64, registers, OFF_syscall_argument_1)};
	struct piece last = {};
	struct message message = {};

	found.size_bytes = size_bytes;
	if (!(call & (HTTP_VECTOR | HTTP_MESSAGE)))
		return found;
	message.pieces = found.start;
	message.n_pieces = READ_KERNEL(u64, registers, OFF_syscall_argument_2);
	if (call & HTTP_MESSAGE)
		bpf_probe_read_user(&message, sizeof(message), (void *)found.start);
	found.start = 0;
	bpf_probe_read_user(&found.start, sizeof(found.start), (void *)message.pieces);
	if (message.n_pieces > 1) {
		bpf_probe_read_user(&last, sizeof(last),
				    (void *)(message.pieces + (message.n_pieces - 1) * sizeof(last)));
		/* Its end counts from the first one's start: all that is wanted of both are their outer bytes. */
		found.size_bytes = last.start + last.size_bytes - found.start;
	}
	return found;
}

static __always_inline bool is_head_alone(struct piece bytes)
{
	char tail[TAIL_BYTES] = {};

	bpf_probe_read_user(tail, sizeof(tail), (void *)(bytes.start + bytes.size_bytes - TAIL_BYTES));
	if (tail[4] != '\r' || tail[5] != '\n' || tail[6] != '\r' || tail[7] != '\n')
		return false;
	if (tail[2] == '\r' && tail[3] == '\n')
		return false;
	return tail[1] != '\r' || tail[2] != '\n' || tail[3] != '0';
}

static __always_inline void on_received(struct connection *connection, u32 tid, u64 now_ns, struct piece bytes,
					s64 returned)
{
	char head[HEAD_BYTES] = {};
	u8 *state = http_connections.lookup(connection), awaits_head = AWAITS_HEAD;

	bpf_probe_read_user(head, sizeof(head), (void *)bytes.start);
	if (returned >= HEAD_BYTES && head[0] == 'P' && head[1] == 'O' && head[2] == 'S' && head[3] == 'T' &&
	    head[4] == ' ') {
		http_connections.update(connection, &awaits_head);
		emit(RING_HTTP, tid, now_ns, connection->fd, HTTP_REQUEST, connection->tgid, returned);
	} else if (state && *state == AWAITS_BODY) {
		http_connections.delete(connection); /* another request: that answer had no body */
	}
}

static __always_inline void on_sent(struct connection *connection, u32 tid, u64 now_ns, struct piece bytes,
				    s64 returned)
{
	char head[HEAD_BYTES] = {};
	u8 *state = http_connections.lookup(connection);

	if (!state)
		return;
	if (*state == AWAITS_HEAD) {
		bpf_probe_read_user(head, sizeof(head), (void *)bytes.start);
		if (returned < HEAD_BYTES || head[0] != 'H' || head[1] != 'T' || head[2] != 'T' || head[3] != 'P' ||
		    head[4] != '/' || head[5] != '1' || head[6] != '.')
			return;
		if (head[9] == '1') /* 100 Continue comes before the answer */
			return;
		if (head[9] == '2' && is_head_alone(bytes)) {
			*state = AWAITS_BODY;
			return;
		}
		if (head[9] != '2') {
			http_connections.delete(connection);
			return;
		}
	}
	http_connections.delete(connection);
	emit(RING_HTTP, tid, now_ns, connection->fd, HTTP_BODY, connection->tgid, returned);
}

/* Look at a system call that returns; `registers` still has its arguments. */
static __always_inline void watch_http(struct thread *thread, u32 tid, u64 number, u64 registers, s64 returned,
				       u64 now_ns)
{
	int key = number;
	u32 *call = http_calls.lookup(&key);
	struct connection connection = {.tgid = thread->tgid};
	struct piece bytes;

	if (!call || !*call || returned <= 0)
		return;
	connection.fd = READ_KERNEL(u64, registers, OFF_syscall_argument_0);
	bytes = find_bytes(*call, registers, returned);
	if (*call & HTTP_RECEIVES)
		on_received(&connection, tid, now_ns, bytes, returned);
	else
		on_sent(&connection, tid, now_ns, bytes, returned);
}
