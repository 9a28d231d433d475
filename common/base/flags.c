#include "common/base/flags.h"

#include "common/base/check.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NEAR_LEN_MAX = 48 };

/* Edits (insert, drop, change, swap neighbours) between a and b. */
static int distance(const char *a, const char *b)
{
    int row[3][NEAR_LEN_MAX + 1]; /* the last two rows and the current one */
    int n_a = (int)strlen(a), n_b = (int)strlen(b);

    if (n_a > NEAR_LEN_MAX || n_b > NEAR_LEN_MAX)
        return NEAR_LEN_MAX;
    for (int j = 0; j <= n_b; j++)
        row[0][j] = j;
    for (int i = 1; i <= n_a; i++) {
        int *now = row[i % 3], *up = row[(i - 1) % 3], *up2 = row[(i + 1) % 3];
        now[0] = i;
        for (int j = 1; j <= n_b; j++) {
            int best = up[j - 1] + (a[i - 1] != b[j - 1]);
            if (up[j] + 1 < best)
                best = up[j] + 1;
            if (now[j - 1] + 1 < best)
                best = now[j - 1] + 1;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] && up2[j - 2] + 1 < best)
                best = up2[j - 2] + 1;
            now[j] = best;
        }
    }
    return row[n_a % 3][n_b];
}

const char *flags_nearest(const char *given, const char *const *words, size_t n)
{
    const char *best = NULL;
    int best_d = (int)strlen(given) / 2 + 1; /* farther than half the word is no help */

    for (size_t i = 0; i < n; i++) {
        int d = distance(given, words[i]);
        if (d < best_d) {
            best_d = d;
            best = words[i];
        }
    }
    return best;
}

void flags_print_help(const struct flags *f)
{
    printf("usage: %s\n", f->usage);
    if (f->about)
        printf("%s\n", f->about);
    if (f->n_flag)
        printf("\n");
    for (size_t i = 0; i < f->n_flag; i++) {
        const struct flag *g = &f->flag[i];
        char left[64];
        snprintf(left, sizeof left, "--%s%s%s", g->name, g->value ? " " : "", g->value ? g->value : "");
        printf("  %-28s %s%s\n", left, g->help, g->required ? " (required)" : "");
    }
    printf("  %-28s %s\n", "--help", "show this text");
}

static int unknown_flag(const struct flags *f, const char *name, size_t len, struct err *err)
{
    const char *known[FLAGS_MAX + 1];
    char given[NEAR_LEN_MAX + 1];

    ASSERT(f->n_flag <= FLAGS_MAX);
    snprintf(given, sizeof given, "%.*s", (int)len, name);
    for (size_t i = 0; i < f->n_flag; i++)
        known[i] = f->flag[i].name;
    known[f->n_flag] = "help";
    const char *near = flags_nearest(given, known, f->n_flag + 1);
    if (near)
        return err_set(err, ERR_ARG, "unknown flag --%s; did you mean --%s?", given, near);
    return err_set(err, ERR_ARG, "unknown flag --%s; see --help", given);
}

static int set_number(const struct flag *g, const char *value, struct err *err)
{
    char *end;
    bool bounded = g->min != 0 || g->max != 0;
    double d;

    errno = 0;
    if (g->kind == FLAG_I64) {
        long long v = strtoll(value, &end, 10);
        if (end == value || *end || errno)
            return err_set(err, ERR_ARG, "--%s needs a whole number, got '%s'", g->name, value);
        *(int64_t *)g->to = v;
        d = (double)v;
    } else {
        d = strtod(value, &end);
        if (end == value || *end || !isfinite(d))
            return err_set(err, ERR_ARG, "--%s needs a number, got '%s'", g->name, value);
        *(double *)g->to = d;
    }
    if (bounded && (d < (double)g->min || d > (double)g->max))
        return err_set(err, ERR_ARG, "--%s must be %lld..%lld, got %s", g->name, (long long)g->min,
                       (long long)g->max, value);
    return 0;
}

/* One flag at argv[*i]; advances *i over its value. */
static int parse_flag(const struct flags *f, int argc, char **argv, int *i, bool *seen, struct err *err)
{
    const char *name = argv[*i] + 2, *eq = strchr(name, '=');
    size_t len = eq ? (size_t)(eq - name) : strlen(name);

    for (size_t k = 0; k < f->n_flag; k++) {
        const struct flag *g = &f->flag[k];
        if (strlen(g->name) != len || memcmp(g->name, name, len) != 0)
            continue;
        seen[k] = true;
        if (g->kind == FLAG_BOOL) {
            if (eq)
                return err_set(err, ERR_ARG, "--%s takes no value", g->name);
            *(bool *)g->to = true;
            return 0;
        }
        if (!eq && *i + 1 == argc)
            return err_set(err, ERR_ARG, "--%s needs a value: %s", g->name, g->value);
        const char *value = eq ? eq + 1 : argv[++*i];
        if (g->kind == FLAG_STR) {
            *(const char **)g->to = value;
            return 0;
        }
        return set_number(g, value, err);
    }
    return unknown_flag(f, name, len, err);
}

int flags_parse(struct flags *f, int argc, char **argv, struct err *err)
{
    bool seen[FLAGS_MAX] = {false}, words_only = false;

    f->n_word = 0;
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i];
        if (!words_only && (strcmp(a, "--help") == 0 || strcmp(a, "-h") == 0)) {
            flags_print_help(f);
            return FLAGS_HELP;
        }
        if (!words_only && strcmp(a, "--") == 0) {
            words_only = true;
        } else if (!words_only && a[0] == '-' && a[1] == '-') {
            int rc = parse_flag(f, argc, argv, &i, seen, err);
            if (rc)
                return rc;
        } else if (!words_only && a[0] == '-' && a[1]) {
            return err_set(err, ERR_ARG, "unknown flag %s; flags have two dashes, see --help", a);
        } else if (f->n_word == f->n_word_max || f->n_word == FLAGS_WORDS_MAX) {
            return err_set(err, ERR_ARG, "unexpected word '%s'; see --help", a);
        } else {
            f->word[f->n_word++] = a;
        }
    }
    for (size_t k = 0; k < f->n_flag; k++)
        if (f->flag[k].required && !seen[k])
            return err_set(err, ERR_ARG, "--%s %s is missing; usage: %s", f->flag[k].name,
                           f->flag[k].value ? f->flag[k].value : "", f->usage);
    if (f->n_word < f->n_word_min)
        return err_set(err, ERR_ARG, "a word is missing; usage: %s", f->usage);
    return 0;
}
