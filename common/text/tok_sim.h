/* common/text/tok_sim.h - the vocabulary of `--engine sim`: a number and a blank are one token.
 * Owns:     nothing; the tok it makes is an ordinary one (tok_close).
 * Thread:   any.
 * Limits:   TOK_SIM_NUMBERS numbers have a token of their own, larger ones are spelt in bytes.
 *
 * It is V4's pipeline with no merges: texts of clients become one token a byte, and the markers of the chat encoding
 * keep their tokens. So a worker without a model can say "token 17" in one id, and both sides agree on it without a
 * file.
 */
#ifndef COMMON_TEXT_TOK_SIM_H
#define COMMON_TEXT_TOK_SIM_H

#include "common/text/tok.h"

enum {
    TOK_SIM_NUMBERS = 4096,
    TOK_SIM_BOS = 0,
    TOK_SIM_EOS = 1,
    TOK_SIM_BYTE = 2,                                    /* + the byte */
    TOK_SIM_NUMBER = TOK_SIM_BYTE + 256,                 /* + i: "i " */
    TOK_SIM_FIRST = TOK_SIM_NUMBER + TOK_SIM_NUMBERS,    /* "</think>0 ": the first token where the prompt ends in
                                                            <think>, so that numbers are content there, too */
};

int tok_sim_open(struct tok **tok, struct err *err);

/* Append the ids that say "i " (one id, or one a byte from TOK_SIM_NUMBERS on). */
void tok_sim_add_number(int64_t i, struct tok_ids *ids);

#endif
