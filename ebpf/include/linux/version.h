/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Nothing here depends on the version: what the kernel has is asked of the kernel. */
#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + (c))
#define LINUX_VERSION_CODE KERNEL_VERSION(5, 8, 0)
