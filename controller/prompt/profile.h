/* controller/prompt/profile.h - which generation of the chat encoder a checkpoint needs.
 * Thread:   any; reads one small file.
 * Limits:   CHAT_CONFIG_FILE_MAX bytes of config.json.
 * Source:   spec/chat.md section 6 (the generations), spec/model.md sections 1 and 9 (dspark_* only in the 0731
 * release).
 */
#ifndef CONTROLLER_PROMPT_PROFILE_H
#define CONTROLLER_PROMPT_PROFILE_H

#include "common/base/err.h"
#include "controller/prompt/chat.h"

enum { CHAT_CONFIG_FILE_MAX = 16 << 20 };

/* name: "preview", "0731" or "auto". auto looks at DIR/config.json: a key dspark_* means 0731, a config without one
 * preview, no config.json (a folder with a tokenizer alone) the newest, 0731. 0; ERR_ARG for another name;
 * ERR_IO, ERR_FORMAT for a config.json that cannot be read. */
int chat_profile_choose(const char *name, const char *dir, enum chat_profile *profile, struct err *err);

const char *chat_profile_name(enum chat_profile profile);

#endif
