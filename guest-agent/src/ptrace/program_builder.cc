// SPDX-License-Identifier: Apache-2.0
#include "ptrace/program_builder.h"

#include "absl/strings/str_format.h"

namespace moult::ptrace {
namespace {

constexpr size_t kAlign = 16;
size_t Aligned(size_t n) { return (n + kAlign - 1) & ~(kAlign - 1); }

}  // namespace

std::string CallName::ToString() const {
  return end_ == 0 ? text_ : absl::StrFormat("%s %#x-%#x", text_, start_, end_);
}

size_t ProgramBuilder::AddData(std::span<const std::byte> bytes) {
  const size_t offset = Aligned(data_.size());
  data_.resize(offset);
  data_.insert(data_.end(), bytes.begin(), bytes.end());
  return offset;
}

size_t ProgramBuilder::AddBuffer(size_t size) {
  const size_t offset = Aligned(data_.size());
  data_.resize(offset + size);
  return offset;
}

size_t ProgramBuilder::Add(CallName what, long nr, std::initializer_list<Arg> args, unsigned flags,
                           int64_t expect) {
  MoultOp op{};
  op.nr = static_cast<uint32_t>(nr);
  op.flags = static_cast<unsigned short>(flags);
  op.expect = expect;
  op.result = -1;
  uint8_t data_args = 0;
  size_t i = 0;
  for (const Arg& arg : args) {
    op.arg[i] = arg.value;
    if (arg.kind == Arg::Kind::kResult) op.refs = static_cast<unsigned short>(op.refs | 1u << i);
    if (arg.kind == Arg::Kind::kData) data_args = static_cast<uint8_t>(data_args | 1u << i);
    ++i;
  }
  ops_.push_back(op);
  data_args_.push_back(data_args);
  what_.push_back(std::move(what));
  return ops_.size() - 1;
}

size_t ProgramBuilder::DataOffset() const {
  return Aligned(sizeof(MoultProgram) + ops_.size() * sizeof(MoultOp));
}

size_t ProgramBuilder::Size() const { return Aligned(DataOffset() + data_.size()); }

std::vector<std::byte> ProgramBuilder::Build(RemotePtr address) const {
  std::vector<std::byte> bytes(Size());
  MoultProgram header{};
  header.count = ops_.size();
  header.ready = ready_;
  header.park = park_;
  std::memcpy(bytes.data(), &header, sizeof(header));
  const uint64_t data = address.value() + DataOffset();
  for (size_t i = 0; i < ops_.size(); ++i) {
    MoultOp op = ops_[i];
    for (size_t a = 0; a < 6; ++a) {
      if (data_args_[i] >> a & 1) op.arg[a] += data;
    }
    std::memcpy(bytes.data() + sizeof(header) + i * sizeof(op), &op, sizeof(op));
  }
  std::copy(data_.begin(), data_.end(), bytes.begin() + static_cast<ptrdiff_t>(DataOffset()));
  for (const Pointer& pointer : pointers_) {
    const uint64_t value = data + pointer.to;
    std::memcpy(bytes.data() + DataOffset() + pointer.where, &value, sizeof(value));
  }
  return bytes;
}

ProgramResult::ProgramResult(const ProgramBuilder& program, std::vector<std::byte> bytes)
    : bytes_(std::move(bytes)), results_(program.op_count()), data_(program.DataOffset()) {
  MoultProgram header;
  std::memcpy(&header, bytes_.data(), sizeof(header));
  failed_ = header.failed > program.op_count() ? program.op_count() : header.failed;
  for (size_t i = 0; i < results_.size(); ++i) {
    MoultOp op;
    std::memcpy(&op, bytes_.data() + sizeof(header) + i * sizeof(op), sizeof(op));
    results_[i] = op.result;
  }
}

}  // namespace moult::ptrace
