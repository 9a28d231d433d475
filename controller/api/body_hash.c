#include "controller/api/body_hash.h"

#include "common/mem/mem.h"

#include <openssl/sha.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int by_name(const void *a, const void *b)
{
    const struct json *x = *(const struct json *const *)a, *y = *(const struct json *const *)b;
    size_t n = x->key_len < y->key_len ? x->key_len : y->key_len;
    int d = memcmp(x->key, y->key, n);
    return d ? d : (x->key_len > y->key_len) - (x->key_len < y->key_len);
}

static bool is_manner(const struct json *m)
{
    return (m->key_len == 6 && memcmp(m->key, "stream", 6) == 0) ||
           (m->key_len == 14 && memcmp(m->key, "stream_options", 14) == 0);
}

/* Depth is bounded by JSON_DEPTH_MAX. */
static void add(struct buf *out, const struct json *j, bool top)
{
    if (j->kind != JSON_OBJECT && j->kind != JSON_ARRAY) {
        json_add(out, j);
        return;
    }
    const struct json **child = mem_array(j->n ? j->n : 1, sizeof *child);
    size_t n = 0;
    for (const struct json *c = j->child; c; c = c->next)
        if (!(top && is_manner(c)))
            child[n++] = c;
    if (j->kind == JSON_OBJECT)
        qsort(child, n, sizeof *child, by_name);
    buf_add_char(out, j->kind == JSON_OBJECT ? '{' : '[');
    for (size_t i = 0; i < n; i++) {
        if (i)
            buf_add_char(out, ',');
        if (j->kind == JSON_OBJECT) {
            json_add_str(out, child[i]->key, child[i]->key_len);
            buf_add_char(out, ':');
        }
        add(out, child[i], false);
    }
    buf_add_char(out, j->kind == JSON_OBJECT ? '}' : ']');
    mem_free(child);
}

void body_hash(const struct json *body, uint8_t hash[BODY_HASH_BYTES])
{
    struct buf text = {0};

    add(&text, body, true);
    SHA256((const unsigned char *)text.data, text.len, hash);
    buf_release(&text);
}

void body_tenant(const char *authorization, char name[TENANT_NAME_MAX])
{
    uint8_t hash[SHA256_DIGEST_LENGTH];

    if (!authorization) {
        memcpy(name, "-", 2);
        return;
    }
    SHA256((const unsigned char *)authorization, strlen(authorization), hash);
    for (int i = 0; i < TENANT_NAME_MAX / 2; i++)
        snprintf(name + 2 * i, 3, "%02x", hash[i]);
}
