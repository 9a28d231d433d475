/* controller/cli/cli.c - from the words on the command line to a subcommand, here or in baton-worker. */
#include "controller/cli/cli.h"

#include "common/base/check.h"
#include "common/mem/mem.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

enum { WORD_MAX = 32 };

struct command {
    const char *words;             /* as typed, one or two words */
    int (*run)(int argc, char **argv); /* NULL: baton-worker runs it */
    const char *worker_name;
    const char *summary;
};

static const struct command commands[] = {
#define X(words, function, summary) {words, function, NULL, summary},
    CLI_CMD_LIST(X)
#undef X
#define X(words, worker_name, summary) {words, NULL, worker_name, summary},
    CLI_WORKER_LIST(X)
#undef X
};

static void print_help(FILE *f)
{
    fprintf(f, "usage: baton COMMAND [flags]\n"
               "Serve DeepSeek-V4 from workers that may be lost at any moment.\n\n");
    for (size_t i = 0; i < N_ELEM(commands); i++)
        fprintf(f, "  %-14s %s\n", commands[i].words, commands[i].summary);
    fprintf(f, "\n`baton COMMAND --help` shows the flags of a command.\n"
               "Exit status: 0 good, 2 wrong usage, 1 anything else.\n");
}

/* The command that the words argv[0..argc) begin with, and how many of them it took. */
static const struct command *find(int argc, char **argv, int *n_word)
{
    for (size_t i = 0; i < N_ELEM(commands); i++) {
        const char *words = commands[i].words, *blank = strchr(words, ' ');
        size_t first = blank ? (size_t)(blank - words) : strlen(words);
        if (strlen(argv[0]) != first || memcmp(argv[0], words, first) != 0)
            continue;
        if (blank && (argc < 2 || strcmp(argv[1], blank + 1) != 0))
            continue;
        *n_word = blank ? 2 : 1;
        return &commands[i];
    }
    return NULL;
}

/* No command begins with these words: say which one was probably meant. */
static int unknown(int argc, char **argv)
{
    char first[N_ELEM(commands)][WORD_MAX];
    const char *known[N_ELEM(commands) + 1];

    for (size_t i = 0; i < N_ELEM(commands); i++) {
        const char *words = commands[i].words;
        int len = (int)strcspn(words, " ");
        snprintf(first[i], WORD_MAX, "%.*s", len, words);
        known[i] = first[i];
        if (strcmp(argv[0], first[i]) == 0) {
            if (argc > 1 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)) {
                print_help(stdout);
                return CLI_GOOD;
            }
            const char *got = argc > 1 && argv[1][0] != '-' ? argv[1] : "";
            fprintf(stderr, "baton %s: %s%s%s; did you mean `baton %s`?\n", argv[0],
                    *got ? "unknown word '" : "a word is missing", got, *got ? "'" : "", words);
            return CLI_USAGE;
        }
    }
    known[N_ELEM(commands)] = argv[0][0] == '-' ? "--help" : "help";
    const char *near = flags_nearest(argv[0], known, N_ELEM(known));
    fprintf(stderr, "baton: unknown %s '%s'%s%s%s; `baton --help` lists them\n",
            argv[0][0] == '-' ? "flag" : "command", argv[0], near ? "; did you mean " : "", near ? near : "",
            near ? "?" : "");
    return CLI_USAGE;
}

/* Become baton-worker NAME args: its output and exit status are ours. Comes back only if that fails. */
static int exec_worker(const struct command *c, int argc, char **argv)
{
    char path[CLI_PATH_MAX];
    struct err err = {0};

    if (cli_sibling("baton-worker", path, &err))
        return cli_fail(c->words, &err);
    char **args = mem_array((size_t)argc + 3, sizeof *args);
    args[0] = path;
    args[1] = mem_strdup(c->worker_name);
    memcpy(args + 2, argv, (size_t)argc * sizeof *args);
    execv(path, args);
    err_set(&err, ERR_IO, "cannot run %s: %s", path, strerror(errno));
    mem_free(args[1]);
    mem_free(args);
    return cli_fail(c->words, &err);
}

static int run_command(const struct command *c, int argc, char **argv, int n_word)
{
    if (!c->run)
        return exec_worker(c, argc - n_word, argv + n_word);
    return c->run(argc - n_word + 1, argv + n_word - 1);
}

static int show_help(int argc, char **argv)
{
    static char help_flag[] = "--help";
    int n_word;

    if (argc == 0) {
        print_help(stdout);
        return CLI_GOOD;
    }
    const struct command *c = find(argc, argv, &n_word);
    if (!c)
        return unknown(argc, argv);
    char *args[] = {argv[0], help_flag, NULL};
    return run_command(c, 2, args, 1);
}

int cli_run(int argc, char **argv)
{
    int n_word;

    if (argc < 2) {
        print_help(stderr);
        return CLI_USAGE;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "help") == 0)
        return show_help(argc - 2, argv + 2);
    if (strcmp(argv[1], "--version") == 0) {
        puts("baton " BATON_VERSION);
        return CLI_GOOD;
    }
    const struct command *c = find(argc - 1, argv + 1, &n_word);
    if (!c)
        return unknown(argc - 1, argv + 1);
    return run_command(c, argc - 1, argv + 1, n_word);
}
