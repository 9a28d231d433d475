/* Proves: named profiles are taken as they are; auto follows config.json; a folder with a tokenizer alone gets the
 * newest; what is broken is said with the file's name. */
#include "controller/prompt/profile.h"
#include "tests/unit/test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char dir[] = "/tmp/baton_profile_XXXXXX", path[64];

static int choose(const char *config, const char *name, enum chat_profile *profile, struct err *err)
{
    if (config) {
        FILE *f = fopen(path, "wb");
        assert_non_null(f);
        fputs(config, f);
        fclose(f);
    } else {
        unlink(path);
    }
    return chat_profile_choose(name, dir, profile, err);
}

static void test_rows(void **state)
{
    static const struct {
        const char *config, *name;
        int rc;
        enum chat_profile profile;
    } rows[] = {
        {"{\"hidden_size\":1}", "auto", 0, CHAT_PREVIEW},
        {"{\"hidden_size\":1,\"dspark_block_size\":5}", "auto", 0, CHAT_0731},
        {"[]", "auto", 0, CHAT_PREVIEW},
        {NULL, "auto", 0, CHAT_0731},
        {NULL, "preview", 0, CHAT_PREVIEW},
        {"{", "0731", 0, CHAT_0731},
        {"{", "auto", ERR_FORMAT, CHAT_PREVIEW},
        {"{}", "latest", ERR_ARG, CHAT_PREVIEW},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        enum chat_profile profile = CHAT_PREVIEW;
        struct err err = {0};
        assert_int_equal(choose(rows[i].config, rows[i].name, &profile, &err), rows[i].rc);
        assert_int_equal(profile, rows[i].profile);
        if (rows[i].rc == ERR_FORMAT)
            assert_non_null(strstr(err.text, "config.json: JSON line 1"));
    }
    assert_string_equal(chat_profile_name(CHAT_0731), "0731");
    assert_string_equal(chat_profile_name(CHAT_PREVIEW), "preview");
}

static int set_up(void **state)
{
    (void)state;
    if (!mkdtemp(dir))
        return -1;
    snprintf(path, sizeof path, "%s/config.json", dir);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    unlink(path);
    return rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_rows)};
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
