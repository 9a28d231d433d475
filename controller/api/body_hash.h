/* controller/api/body_hash.h - is it the same request again? A hash of the parsed body, and the name of a tenant.
 * Owns:     nothing.
 * Thread:   any.
 * Limits:   the JSON reader's.
 * Source:   spec/api.md section 8; SHA-256 from libcrypto.
 */
#ifndef CONTROLLER_API_BODY_HASH_H
#define CONTROLLER_API_BODY_HASH_H

#include "common/text/json.h"

#include <stdint.h>

enum { BODY_HASH_BYTES = 32, TENANT_NAME_MAX = 33 };

/* SHA-256 over the body without white space and with the members of each object sorted by name. `stream` and
 * `stream_options` at the top do not count: they say how the answer is wanted, not what is asked. */
void body_hash(const struct json *body, uint8_t hash[BODY_HASH_BYTES]);

/* Name the tenant of an API key as sent ("Bearer ..."): a hash, so that no key is ever written down. NULL: "-". */
void body_tenant(const char *authorization, char name[TENANT_NAME_MAX]);

#endif
