/* tests/unit/test.h - cmocka with the headers that it needs in front, and the path of test data.
 * Thread: the test's.
 */
#ifndef TESTS_UNIT_TEST_H
#define TESTS_UNIT_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

/* TEST_DATA("vectors/chat.jsonl") -> absolute path of a file under tests/. */
#define TEST_DATA(path) BATON_SOURCE_DIR "/tests/" path

#endif
