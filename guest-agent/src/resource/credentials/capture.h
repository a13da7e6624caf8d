// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_RESOURCE_CREDENTIALS_CAPTURE_H_
#define MOULT_RESOURCE_CREDENTIALS_CAPTURE_H_

#include <memory>

#include "moult/protocol/schema.h"
#include "proc/status.h"

namespace moult::engine {

// All but the securebits, which only the thread itself can be asked for.
std::unique_ptr<image::CredentialsT> CredentialsOf(const proc::Status& status);

}  // namespace moult::engine

#endif  // MOULT_RESOURCE_CREDENTIALS_CAPTURE_H_
