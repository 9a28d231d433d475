/* controller/http/parser.h - one HTTP/1.x request at a time: head and body, by a parser library.
 * Owns:     the parser; views in struct http_head point into the caller's bytes.
 * Lifetime: http_reader_new .. http_reader_destroy; http_reader_head starts the next message.
 * Thread:   one.
 * Limits:   HTTP_HEADERS_MAX headers; the caller bounds the bytes.
 * Source:   RFC 9110, 9112.
 *
 * parser.c is the only file that knows which library it is (llhttp or http-parser). The head is handed over whole, in
 * one piece and after http_head_scan() has looked at its line ends, so that the leniencies in which the two
 * libraries and their builds differ (bare LF, folded lines, blanks before the colon) never come into play.
 */
#ifndef CONTROLLER_HTTP_PARSER_H
#define CONTROLLER_HTTP_PARSER_H

#include "controller/http/server.h"

struct http_reader;

struct http_field {
    const char *name, *value; /* NUL-terminated inside the head bytes */
};

struct http_head {
    const char *method;
    const char *path, *query; /* target without scheme and authority; query without '?', "" if none */
    int major, minor;
    struct http_field field[HTTP_HEADERS_MAX];
    int n_field;
    int64_t content_length; /* -1: not given */
    bool chunked;
    bool keep_alive;
    bool has_body;
    bool expect_continue;
};

enum http_scan {
    HTTP_SCAN_MORE, /* no end yet */
    HTTP_SCAN_DONE, /* the head ends at *end */
    HTTP_SCAN_BAD   /* not HTTP: bare CR or LF, NUL, a folded line, a first byte that starts no method */
};

/* Look for the empty line that ends the head in data[*pos..n). *pos moves on, so that a head that comes byte by byte
 * is scanned once; the caller starts it at 0. Empty lines before the request line are allowed; *start is where the
 * request line begins. */
enum http_scan http_head_scan(const char *data, size_t n, size_t *pos, size_t *start, size_t *end);

struct http_reader *http_reader_new(void);
void http_reader_destroy(struct http_reader **r);

/* Read a whole head (data[0..n) ends with CR LF CR LF; it is changed: NULs are put behind names and values).
 * 0 and *head; or the HTTP status to answer (400, 414, 417, 431, 501, 505) and err. */
int http_reader_head(struct http_reader *r, char *data, size_t n, struct http_head *head, struct err *err);

enum http_body { HTTP_BODY_MORE, HTTP_BODY_DONE, HTTP_BODY_BAD };

/* Read the body of the message whose head was read: decoded bytes are appended to `body`, at most up to its length
 * `max` (then HTTP_BODY_MORE with body->len > max: the caller refuses). *n_used bytes of data were taken. */
enum http_body http_reader_body(struct http_reader *r, const char *data, size_t n, size_t *n_used, struct buf *body,
                                size_t max, struct err *err);

const char *http_reader_library(void); /* name and version, for the log */

#endif
