/* worker/model/names.h - any spelling of a tensor's name -> the official one.
 * Owns:     nothing.
 * Thread:   any.
 * Limits:   MDL_NAME_MAX bytes in and out.
 * Source:   spec/model.md section 2 (spellings), HF_NAMES of the executable specification.
 *
 * Official (`layers.3.attn.wq_a.weight`), with the prefix `model.`, Hugging Face module names
 * (`model.layers.3.self_attn.q_a_proj.weight`) and the mixture that transformers saves. An official name comes back
 * as it is; a name that is none of ours comes back with at most the rules applied that happen to match.
 */
#ifndef WORKER_MODEL_NAMES_H
#define WORKER_MODEL_NAMES_H

#include "worker/model/tensor.h"

/* The official spelling into out. False when name or result is longer than MDL_NAME_MAX. */
bool mdl_name_official(const char *name, char out[MDL_NAME_MAX + 1]);

#endif
