/* tests/fuzz/fuzz.h - what a fuzz target defines.
 * Thread: one.
 */
#ifndef TESTS_FUZZ_FUZZ_H
#define TESTS_FUZZ_FUZZ_H

#include <stddef.h>
#include <stdint.h>

/* Feed one input to the code under test. It must not crash, hang or keep memory; returns 0. Named by libFuzzer. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif
