// SPDX-License-Identifier: Apache-2.0
#include "capi/capi.h"
#include "json/json.h"

using moult::capi::GiveText;
using moult::capi::Guarded;
using moult::capi::TakeOptions;

namespace {

absl::Status NeedStore(const moult_store* store) {
  return store != nullptr ? absl::OkStatus() : absl::InvalidArgumentError("store is NULL");
}

absl::Status NeedText(const char* text, const char* what) {
  return text != nullptr ? absl::OkStatus() : absl::InvalidArgumentError(absl::StrCat(what, " is NULL"));
}

}  // namespace

extern "C" {

int moult_store_open(const char* path, const struct moult_store_options* options,
                     struct moult_store** store) {
  return Guarded([&]() -> absl::Status {
    MOULT_RETURN_IF_ERROR(NeedText(path, "path"));
    if (store == nullptr) return absl::InvalidArgumentError("store is NULL");
    *store = nullptr;
    uint32_t flags = 0;
    if (options != nullptr) {
      MOULT_ASSIGN_OR_RETURN(const moult_store_options ours, TakeOptions(options, "moult_store_options"));
      flags = ours.flags;
    }
    if ((flags & ~MOULT_STORE_CREATE) != 0) return absl::InvalidArgumentError("store options: unknown flags");
    MOULT_ASSIGN_OR_RETURN(auto opened, moult::host::Store::Open(path, (flags & MOULT_STORE_CREATE) != 0));
    *store = new moult_store{std::move(opened)};
    return absl::OkStatus();
  });
}

void moult_store_close(struct moult_store* store) { delete store; }

int moult_store_list_json(struct moult_store* store, char** json) {
  return Guarded([&]() -> absl::Status {
    MOULT_RETURN_IF_ERROR(NeedStore(store));
    MOULT_ASSIGN_OR_RETURN(const auto names, store->store->Names());
    moult::host::Json list = moult::host::Json::array();
    for (const std::string& name : names) {
      const auto content = store->store->Read(name);
      if (absl::IsNotFound(content.status())) continue;  // Removed meanwhile, or a folder of something else.
      list.push_back(content.ok() ? moult::host::ToJson(**content)
                                  : moult::host::Json{{"name", name},
                                                      {"error", std::string(content.status().message())}});
    }
    return GiveText(moult::host::Dump(list), json);
  });
}

int moult_store_show_json(struct moult_store* store, const char* name, char** json) {
  return Guarded([&]() -> absl::Status {
    MOULT_RETURN_IF_ERROR(NeedStore(store));
    MOULT_RETURN_IF_ERROR(NeedText(name, "name"));
    MOULT_ASSIGN_OR_RETURN(const auto content, store->store->Read(name));
    return GiveText(moult::host::Dump(moult::host::ToJsonInFull(*content)), json);
  });
}

int moult_store_verify(struct moult_store* store, const char* name) {
  return Guarded([&]() -> absl::Status {
    MOULT_RETURN_IF_ERROR(NeedStore(store));
    MOULT_RETURN_IF_ERROR(NeedText(name, "name"));
    return store->store->Verify(name);
  });
}

int moult_store_remove(struct moult_store* store, const char* name) {
  return Guarded([&]() -> absl::Status {
    MOULT_RETURN_IF_ERROR(NeedStore(store));
    MOULT_RETURN_IF_ERROR(NeedText(name, "name"));
    return store->store->Remove(name);
  });
}

int moult_store_import(struct moult_store* store, const char* name, const char* from,
                       const struct moult_import_options* options) {
  return Guarded([&]() -> absl::Status {
    MOULT_RETURN_IF_ERROR(NeedStore(store));
    MOULT_RETURN_IF_ERROR(NeedText(name, "name"));
    MOULT_RETURN_IF_ERROR(NeedText(from, "from"));
    moult_import_options ours{};
    if (options != nullptr) {
      MOULT_ASSIGN_OR_RETURN(ours, TakeOptions(options, "moult_import_options"));
    }
    std::unique_ptr<moult::rpc::FunctionSpecT> spec;
    if (ours.function_json != nullptr) {
      MOULT_ASSIGN_OR_RETURN(spec, moult::host::SpecFromJson(ours.function_json));
    }
    const std::string tenant = moult::capi::Text(ours.tenant);
    return store->store->Import(name, from, spec.get(), ours.tenant != nullptr ? &tenant : nullptr);
  });
}

}  // extern "C"
