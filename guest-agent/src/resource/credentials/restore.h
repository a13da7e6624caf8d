// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_RESOURCE_CREDENTIALS_RESTORE_H_
#define MOULT_RESOURCE_CREDENTIALS_RESTORE_H_

#include "moult/protocol/schema.h"
#include "ptrace/program_builder.h"

namespace moult::engine {

// Adds the calls that take the thread that runs the program from `current` to `wanted`. They come last of
// all that needs privilege.
void RestoreCredentials(const image::CredentialsT& wanted, const image::CredentialsT& current, bool keep_caps,
                        ptrace::ProgramBuilder& program);

}  // namespace moult::engine

#endif  // MOULT_RESOURCE_CREDENTIALS_RESTORE_H_
