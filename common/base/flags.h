/* common/base/flags.h - command line flags of all our programs: one table per command gives parsing and --help.
 * Owns:     nothing; values are views into argv or static strings.
 * Thread:   main, at start.
 * Limits:   FLAGS_MAX flags, FLAGS_WORDS_MAX plain words.
 *
 * --name VALUE and --name=VALUE; a FLAG_BOOL takes no value. "--" ends flags. An unknown flag names the nearest known
 * one. Every error is one line for stderr; the program then exits 2.
 */
#ifndef COMMON_BASE_FLAGS_H
#define COMMON_BASE_FLAGS_H

#include "common/base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { FLAGS_MAX = 64, FLAGS_WORDS_MAX = 16 };

enum flag_kind {
    FLAG_BOOL, /* to: bool *    */
    FLAG_STR,  /* to: const char ** */
    FLAG_I64,  /* to: int64_t *, within min..max */
    FLAG_F64,  /* to: double *, finite, within min..max */
};

struct flag {
    const char *name; /* without the dashes */
    enum flag_kind kind;
    void *to;          /* keeps its value (the default) when the flag is absent */
    const char *value; /* name of the value in help: "DIR", "N"; NULL for FLAG_BOOL */
    const char *help;  /* one line */
    int64_t min, max;  /* numbers only; both 0: no bounds */
    bool required;
};

struct flags {
    const char *usage; /* "baton score --model DIR --tokens F.json --out F.safetensors [flags]" */
    const char *about; /* one or two lines */
    const struct flag *flag;
    size_t n_flag;
    int n_word_min, n_word_max; /* plain words allowed */
    int n_word;                 /* out */
    const char *word[FLAGS_WORDS_MAX]; /* out */
};

enum { FLAGS_HELP = 1 };

/* Parse argv[1..argc). 0; FLAGS_HELP when --help or -h was given (help is printed to stdout: exit 0); ERR_ARG with
 * text. */
int flags_parse(struct flags *f, int argc, char **argv, struct err *err);

void flags_print_help(const struct flags *f);

/* The word among `words` (n of them) nearest to `given`, or NULL if none is near: for "did you mean". */
const char *flags_nearest(const char *given, const char *const *words, size_t n);

#endif
