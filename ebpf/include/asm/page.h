/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* bcc counts rings in pages; PAGE_BYTES comes from the collector. */
#define PAGE_SIZE PAGE_BYTES
