/* common/mem/mem.h - checked allocation for the control plane.
 * These functions never return NULL: on Linux a small allocation that fails leaves nothing sensible to do, so
 * they print one line and abort (docs/adr/0003). Sizes that come from outside are bounded BEFORE they get
 * here; big pools (KV blocks, workspaces) use calloc/mmap themselves and report ERR_MEM.
 * Thread: any.
 */
#ifndef COMMON_MEM_MEM_H
#define COMMON_MEM_MEM_H

#include <stddef.h>

void *mem_alloc(size_t n);            /* n bytes, uninitialised */
void *mem_zalloc(size_t n);           /* n bytes, zero */
void *mem_array(size_t n, size_t sz); /* n elements of sz bytes, zero; aborts if n*sz overflows */
void *mem_realloc(void *p, size_t n);
void *mem_dup(const void *p, size_t n); /* copy of n bytes, plus a NUL behind them */
char *mem_strdup(const char *s);
void mem_free(void *p); /* NULL allowed */

#endif
