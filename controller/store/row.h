/* controller/store/row.h - records as rows: the columns of each kind in the order that both back ends write and read.
 * Owns:     nothing; cells lend the memory of the record, records that of the cells.
 * Thread:   any; plain data.
 * Limits:   STORE_CELLS_MAX columns.
 *
 *   accept   id, tenant, path, key, body_hash, prompt, params_version, params, seed, created_ms, deadline_ms,
 * n_choice tokens   request, choice, first, n, ids, extra end      request, choice, finish, text, n_tok, prompt_tok,
 * output_tok, cached_tok, reasoning_tok, ended_ms run      id, tenant, key, body_hash, name, pipeline, input, parent,
 * created_ms, deadline_ms step     run, path, attempt, state, result, request, error, prompt_tok, output_tok,
 * cached_tok, reasoning_tok, at_ms run_end  run, state, output, error, prompt_tok, output_tok, cached_tok,
 * reasoning_tok, ended_ms prune, prune_run  id
 */
#ifndef CONTROLLER_STORE_ROW_H
#define CONTROLLER_STORE_ROW_H

#include "controller/store/record.h"

#include <stdbool.h>

enum { STORE_CELLS_MAX = 12 };

enum store_cell_type { STORE_CELL_null, STORE_CELL_i64, STORE_CELL_text, STORE_CELL_bytes };

struct store_cell {
    enum store_cell_type type;
    int64_t i;     /* i64 */
    const void *p; /* text, with a NUL behind its n bytes; bytes, never NULL */
    size_t n;
};

/* The columns of r; returns how many. A NULL text becomes a null cell. */
int store__pack(const struct store_record *r, struct store_cell cell[STORE_CELLS_MAX]);

/* The record of a row. False: a cell has the wrong type or length, which only a damaged database has. The cells of
 * int32 arrays must be aligned. pipeline and input of a run may be null cells. */
bool store__unpack(enum store_kind kind, const struct store_cell *cell, struct store_record *r);

int store__n_cells(enum store_kind kind);

#endif
