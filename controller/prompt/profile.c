#include "controller/prompt/profile.h"

#include "common/mem/file.h"

#include <string.h>

static const char *const names[] = {[CHAT_PREVIEW] = "preview", [CHAT_0731] = "0731"};

const char *chat_profile_name(enum chat_profile profile)
{
    return names[profile];
}

/* Only the release of July has the block-drafting heads, and with them the newer encoder. */
static int profile_of_config(const char *path, const struct buf *text, enum chat_profile *profile, struct err *err)
{
    struct arena arena = {0};
    const struct json *root;
    int rc = json_parse(text->data, text->len, 0, &arena, &root, err);

    if (rc) {
        err_wrap(err, "%s", path);
    } else {
        *profile = CHAT_PREVIEW;
        for (const struct json *j = json_is(root, JSON_OBJECT) ? root->child : NULL; j; j = j->next)
            if (strncmp(j->key, "dspark_", 7) == 0)
                *profile = CHAT_0731;
    }
    arena_release(&arena);
    return rc;
}

int chat_profile_choose(const char *name, const char *dir, enum chat_profile *profile, struct err *err)
{
    struct buf path = {0}, text = {0};

    for (int i = 0; i < (int)(sizeof names / sizeof names[0]); i++)
        if (strcmp(name, names[i]) == 0) {
            *profile = (enum chat_profile)i;
            return 0;
        }
    if (strcmp(name, "auto") != 0)
        return err_set(err, ERR_ARG, "unknown profile '%s': auto, preview or 0731", name);
    buf_addf(&path, "%s/config.json", dir);
    int rc = file_read(path.data, CHAT_CONFIG_FILE_MAX, &text, err);
    if (rc == ERR_MISSING) {
        *profile = CHAT_0731;
        rc = 0;
    } else if (!rc) {
        rc = profile_of_config(path.data, &text, profile, err);
    }
    buf_release(&path);
    buf_release(&text);
    return rc;
}
