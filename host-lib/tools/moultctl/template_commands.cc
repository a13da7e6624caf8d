// SPDX-License-Identifier: Apache-2.0
#include "absl/strings/str_cat.h"
#include "commands.h"
#include "output.h"

namespace moult::ctl {
namespace {

int OnTemplate(Backend& backend, const Arguments& arguments, const std::string& method,
               const std::string& done) {
  const absl::StatusOr<Json> result = backend.Call(method, {{"name", arguments.name}});
  if (!result.ok()) return Fail(result.status(), arguments.json);
  return Print(*result, absl::StrCat(arguments.name, ": ", done, "\n"), arguments.json);
}

}  // namespace

int RunTemplatesList(Backend& backend, const Arguments& arguments) {
  const absl::StatusOr<Json> result = backend.Call("templates.list", Json::object());
  if (!result.ok()) return Fail(result.status(), arguments.json);
  std::vector<std::vector<std::string>> rows{
      {"NAME", "PROGRAM", "USER STATE", "THREADS", "TENANT", "KERNEL"}};
  for (const Json& t : Member(*result, "templates")) {
    if (!Text(t, "error").empty()) {
      rows.push_back({Text(t, "name"), absl::StrCat("damaged: ", Text(t, "error"))});
      continue;
    }
    rows.push_back({Text(t, "name"), Text(t, "program"), Bytes(Number(t, "user_state_bytes")),
                    Text(t, "threads"), Text(t, "tenant").empty() ? "-" : Text(t, "tenant"),
                    Text(t, "kernel_release")});
  }
  return Print(*result, Table(rows), arguments.json);
}

int RunTemplatesShow(Backend& backend, const Arguments& arguments) {
  const absl::StatusOr<Json> result = backend.Call("templates.show", {{"name", arguments.name}});
  if (!result.ok()) return Fail(result.status(), arguments.json);
  std::vector<std::vector<std::string>> rows;
  for (const auto& [key, value] : Member(*result, "template").items())
    rows.push_back({key, Text(Member(*result, "template"), key.c_str())});
  return Print(*result, Table(rows), arguments.json);
}

int RunTemplatesVerify(Backend& backend, const Arguments& arguments) {
  return OnTemplate(backend, arguments, "templates.verify", "whole");
}
int RunTemplatesRemove(Backend& backend, const Arguments& arguments) {
  return OnTemplate(backend, arguments, "templates.remove", "removed");
}

}  // namespace moult::ctl
