// SPDX-License-Identifier: Apache-2.0
//
// The types that flatc generates from template.fbs. Include this, never template_generated.h: <signal.h> has
// a function-like macro `sigmask` (4.2BSD), which the accessor of Thread.sigmask would run into.
#ifndef MOULT_PROTOCOL_SCHEMA_H_
#define MOULT_PROTOCOL_SCHEMA_H_

#pragma push_macro("sigmask")
#undef sigmask
#include "moult/protocol/template_generated.h"  // IWYU pragma: export
#pragma pop_macro("sigmask")

#endif  // MOULT_PROTOCOL_SCHEMA_H_
