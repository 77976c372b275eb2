// A device that is no CPU to torch but keeps its numbers in the CPU's memory: a tensor in the wrong place fails here as on a GPU.
// Left out: speed (every operation copies to the CPU and back) and streams that really run beside each other.
//
// Two devices, standin:0 and standin:1. An operation over tensors of two devices is refused, as CUDA refuses it: numbers (tensors
// without dimensions) and the indices of an index operation may lie on the CPU. Each device draws from a generator of its own.

#include <ATen/ATen.h>
#include <ATen/InferSize.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/GeneratorForPrivateuseone.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/native/DispatchStub.h>
#include <ATen/native/transformers/attention.h>
#include <ATen/TensorUtils.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/csrc/utils/pybind.h>
#include <torch/library.h>

#include <unordered_set>

namespace {

constexpr int NUM_DEVICES = 2;
bool present = false;
thread_local c10::DeviceIndex current = 0;
std::array<int64_t, NUM_DEVICES> held{};

c10::Device here(c10::DeviceIndex index) {
  return c10::Device(c10::DeviceType::PrivateUse1, index < 0 ? current : index);
}

// Memory ---------------------------------------------------------------------------------------------------------------

struct Block {
  c10::DataPtr data;
  size_t size;
  c10::DeviceIndex index;
};

struct Memory final : c10::Allocator {
  c10::DataPtr allocate(size_t size) override {
    auto* block = new Block{c10::GetCPUAllocator()->allocate(size), size, current};
    held[current] += static_cast<int64_t>(size);
    void* data = block->data.get();
    return {data, block, &release, here(current)};
  }
  static void release(void* context) {
    auto* block = static_cast<Block*>(context);
    held[block->index] -= static_cast<int64_t>(block->size);
    delete block;
  }
  void copy_data(void* to, const void* from, std::size_t count) const override {
    default_copy_data(to, from, count);
  }
};

Memory memory;

// Host memory that counts as pinned.
std::unordered_set<const void*> pins;

struct Pinned final : c10::Allocator {
  c10::DataPtr allocate(size_t size) override {
    auto* data = new c10::DataPtr(c10::GetCPUAllocator()->allocate(size));
    pins.insert(data->get());
    return {data->get(), data, &release, c10::Device(c10::kCPU)};
  }
  static void release(void* context) {
    auto* data = static_cast<c10::DataPtr*>(context);
    pins.erase(data->get());
    delete data;
  }
  void copy_data(void* to, const void* from, std::size_t count) const override {
    default_copy_data(to, from, count);
  }
};

Pinned pinned;

// Devices and their generators -----------------------------------------------------------------------------------------

struct Guard final : c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::PrivateUse1> {
  c10::Device exchangeDevice(c10::Device device) const override {
    c10::Device before = here(current);
    setDevice(device);
    return before;
  }
  c10::Device getDevice() const override { return here(current); }
  void setDevice(c10::Device device) const override {
    if (device.index() >= 0) {
      TORCH_CHECK(device.index() < NUM_DEVICES, "there is no standin:", static_cast<int>(device.index()));
      current = device.index();
    }
  }
  void uncheckedSetDevice(c10::Device device) const noexcept override {
    if (device.index() >= 0 && device.index() < NUM_DEVICES) current = device.index();
  }
  c10::Stream getStream(c10::Device device) const noexcept override {
    return c10::Stream(c10::Stream::DEFAULT, here(device.index()));
  }
  c10::Stream getDefaultStream(c10::Device device) const override { return getStream(device); }
  c10::Stream getStreamFromGlobalPool(c10::Device device, bool) const override { return getStream(device); }
  c10::Stream getNewStream(c10::Device device, int) const override { return getStream(device); }
  c10::Stream exchangeStream(c10::Stream stream) const noexcept override { return stream; }
  c10::DeviceIndex deviceCount() const noexcept override { return present ? NUM_DEVICES : 0; }
  void record(void** event, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag) const override {
    *event = &current;
  }
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream&) const override {}
  void synchronizeEvent(void*) const override {}
  void synchronizeDevice(const c10::DeviceIndex) const override {}
};

C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

at::Generator& generator(c10::DeviceIndex index) {
  static std::array<at::Generator, NUM_DEVICES> all{
      at::make_generator<at::CPUGeneratorImpl>(1), at::make_generator<at::CPUGeneratorImpl>(2)};
  return all.at(index < 0 ? current : index);
}

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return present; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return present ? NUM_DEVICES : 0; }
  c10::DeviceIndex getCurrentDevice() const override { return current; }
  void setCurrentDevice(c10::DeviceIndex index) const override { current = index; }
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex index) const override { return std::exchange(current, index); }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex index) const override { return std::exchange(current, index); }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex index) const override { return generator(index); }
  at::Generator getNewGenerator(c10::DeviceIndex) const override { return at::make_generator<at::CPUGeneratorImpl>(); }
  at::Device getDeviceFromPtr(void*) const override { return here(current); }
  bool isPinnedPtr(const void* data) const override { return pins.count(data) > 0; }
  c10::Allocator* getPinnedMemoryAllocator() const override { return &pinned; }
  void resizePrivateUse1Bytes(const c10::Storage& storage, size_t size) const override {
    c10::DataPtr fresh = memory.allocate(size);
    std::memcpy(fresh.get(), storage.data(), std::min(size, storage.nbytes()));
    storage.set_data_ptr(std::move(fresh));
    storage.unsafeGetStorageImpl()->set_nbytes(size);
  }
};

// Tensors --------------------------------------------------------------------------------------------------------------

at::Tensor made(c10::SymIntArrayRef shape, std::optional<c10::ScalarType> dtype, std::optional<c10::Device> device) {
  c10::OptionalDeviceGuard guard(device);
  auto size = C10_AS_INTARRAYREF_SLOW(shape);
  constexpr c10::DispatchKeySet keys(c10::DispatchKey::PrivateUse1);
  return at::detail::empty_generic(
      size, &memory, keys, dtype.value_or(c10::get_default_dtype_as_scalartype()), std::nullopt);
}

at::Tensor empty(
    c10::SymIntArrayRef size, std::optional<c10::ScalarType> dtype, std::optional<c10::Layout>,
    std::optional<c10::Device> device, std::optional<bool>, std::optional<c10::MemoryFormat>) {
  return made(size, dtype, device);
}

at::Tensor empty_strided(
    c10::SymIntArrayRef size, c10::SymIntArrayRef stride, std::optional<c10::ScalarType> dtype, std::optional<c10::Layout>,
    std::optional<c10::Device> device, std::optional<bool>) {
  c10::OptionalDeviceGuard guard(device);
  constexpr c10::DispatchKeySet keys(c10::DispatchKey::PrivateUse1);
  return at::detail::empty_strided_generic(
      C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride), &memory, keys,
      dtype.value_or(c10::get_default_dtype_as_scalartype()));
}

// The same bytes as a CPU tensor.
at::Tensor bare(const at::Tensor& tensor) {
  if (tensor.device().is_cpu()) return tensor;
  return at::from_blob(
      tensor.data_ptr(), tensor.sizes(), tensor.strides(), tensor.options().device(c10::kCPU).requires_grad(false));
}

at::Tensor copy_from(const at::Tensor& self, const at::Tensor& to, bool) {
  if (to.numel() > 0) bare(to).copy_(bare(self));
  return to;
}

const at::Tensor& resize(const at::Tensor& self, c10::SymIntArrayRef shape, std::optional<c10::MemoryFormat>) {
  auto size = C10_AS_INTARRAYREF_SLOW(shape);
  int64_t needed = c10::multiply_integers(size) * self.element_size() + self.storage_offset() * self.element_size();
  if (static_cast<int64_t>(self.storage().nbytes()) < needed) {
    c10::DeviceGuard guard(self.device());
    at::detail::getPrivateUse1Hooks().resizePrivateUse1Bytes(self.storage(), needed);
  }
  self.unsafeGetTensorImpl()->set_sizes_contiguous(size);
  return self;
}

at::Tensor copy_from_and_resize(const at::Tensor& self, const at::Tensor& to) {
  if (to.sizes() != self.sizes()) resize(to, self.sym_sizes(), std::nullopt);
  return copy_from(self, to, false);
}

at::Tensor as_strided(
    const at::Tensor& self, c10::SymIntArrayRef size, c10::SymIntArrayRef stride, std::optional<c10::SymInt> offset) {
  auto result = at::detail::make_tensor<c10::TensorImpl>(
      c10::TensorImpl::VIEW, c10::Storage(self.storage()), self.key_set(), self.dtype());
  result.unsafeGetTensorImpl()->set_sizes_and_strides(
      C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride),
      offset ? offset->expect_int() : self.storage_offset());
  return result;
}

at::Tensor view(const at::Tensor& self, c10::SymIntArrayRef shape) {
  auto size = at::infer_size_dv(C10_AS_INTARRAYREF_SLOW(shape), self.numel());
  auto stride = at::detail::computeStride(self.sizes(), self.strides(), size);
  TORCH_CHECK(stride.has_value(), "view size is not compatible with input tensor's size and stride: use reshape");
  return as_strided(
      self, c10::fromIntArrayRefSlow(size), c10::fromIntArrayRefSlow(*stride), c10::SymInt(self.storage_offset()));
}

at::Tensor reshape_alias(const at::Tensor& self, c10::SymIntArrayRef size, c10::SymIntArrayRef stride) {
  return as_strided(self, size, stride, c10::SymInt(self.storage_offset()));
}

at::Tensor view_dtype(const at::Tensor& self, c10::ScalarType dtype) {
  // the same bytes by another name; sizes are those that the CPU's view has
  auto like = bare(self).view(dtype);
  auto offset = self.storage_offset() * static_cast<int64_t>(self.element_size()) / static_cast<int64_t>(like.element_size());
  auto result = at::detail::make_tensor<c10::TensorImpl>(
      c10::TensorImpl::VIEW, c10::Storage(self.storage()), self.key_set(), like.dtype());
  result.unsafeGetTensorImpl()->set_sizes_and_strides(like.sizes(), like.strides(), offset);
  return result;
}

at::Tensor unfold(const at::Tensor& self, int64_t dimension, int64_t length, int64_t step) {
  auto dim = at::maybe_wrap_dim(dimension, self.dim());
  auto size = self.sizes().vec();
  auto stride = self.strides().vec();
  size.push_back(length);
  stride.push_back(stride[dim]);
  size[dim] = (size[dim] - length) / step + 1;
  stride[dim] *= step;
  return as_strided(
      self, c10::fromIntArrayRefSlow(size), c10::fromIntArrayRefSlow(stride), c10::SymInt(self.storage_offset()));
}

at::Tensor& set_storage(
    at::Tensor& self, at::Storage storage, c10::SymInt offset, c10::SymIntArrayRef size, c10::SymIntArrayRef stride) {
  auto* raw = self.unsafeGetTensorImpl();
  raw->set_storage_keep_dtype(std::move(storage));
  auto shape = C10_AS_INTARRAYREF_SLOW(size);
  if (stride.size() == size.size()) {
    raw->set_sizes_and_strides(shape, C10_AS_INTARRAYREF_SLOW(stride), offset.expect_int());
  } else {
    raw->set_sizes_contiguous(shape);
    raw->set_storage_offset(offset.expect_int());
  }
  return self;
}

at::Tensor& set_bytes(at::Tensor& self, at::Storage source) {
  auto count = static_cast<int64_t>(source.nbytes()) / static_cast<int64_t>(self.element_size());
  return set_storage(self, source, 0, {c10::SymInt(count)}, {});
}

at::Tensor& set_tensor(at::Tensor& self, const at::Tensor& source) {
  return set_storage(self, source.storage(), source.sym_storage_offset(), source.sym_sizes(), source.sym_strides());
}

// Everything else ------------------------------------------------------------------------------------------------------

void same_place(const c10::OperatorHandle& op, const torch::jit::Stack& stack, size_t num_arguments) {
  const std::string& name = op.schema().name();
  const bool indexes = name.find("index") != std::string::npos && name != "aten::index_select";
  std::optional<c10::Device> place;
  bool first = true;
  auto look = [&](const at::Tensor& tensor, bool index) {
    if (!tensor.defined() || (tensor.dim() == 0 && tensor.device().is_cpu())) return;
    if (index && tensor.device().is_cpu()) return;
    if (place && *place != tensor.device()) {
      TORCH_CHECK(
          false, "Expected all tensors to be on the same device, but ", name, " got ", *place, " and ", tensor.device());
    }
    place = tensor.device();
  };
  for (auto at = stack.size() - num_arguments; at < stack.size(); ++at) {
    const auto& value = stack[at];
    if (value.isTensor()) {
      look(value.toTensor(), false);
    } else if (value.isTensorList()) {
      for (const at::Tensor& one : value.toTensorList()) look(one, indexes && !first);
    } else if (value.isOptionalTensorList()) {
      for (const std::optional<at::Tensor>& one : value.toOptionalTensorList()) {
        if (one) look(*one, indexes && !first);
      }
    }
    first = false;
  }
}

void through_cpu(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto& arguments = op.schema().arguments();
  const auto begin = stack->size() - arguments.size();
  same_place(op, *stack, arguments.size());
  c10::DeviceIndex index = current;
  for (size_t i = 0; i < arguments.size(); ++i) {
    const auto& value = (*stack)[begin + i];
    if (value.isTensor() && value.toTensor().defined() && value.toTensor().device().is_privateuseone()) {
      index = value.toTensor().device().index();
      break;
    }
    if (value.isDevice() && value.toDevice().is_privateuseone()) index = here(value.toDevice().index()).index();
  }
  c10::DeviceGuard guard(here(index));
  for (size_t i = 0; i < arguments.size(); ++i) {
    if (arguments[i].name() == "generator" && (*stack)[begin + i].isNone()) (*stack)[begin + i] = generator(index);
  }
  at::native::cpu_fallback(op, stack, true);
}

// A GPU counts whole numbers, a CPU does not.
at::Tensor histc(const at::Tensor& self, int64_t bins, const at::Scalar& low, const at::Scalar& high) {
  return at::histc(bare(self).to(at::kFloat), bins, low, high).to(self.scalar_type()).to(self.device());
}

int64_t plain_attention(
    const at::Tensor&, const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&, double, bool,
    std::optional<double>, bool) {
  return 0;  // SDPBackend::math
}

}  // namespace

namespace at::native {
REGISTER_PRIVATEUSE1_DISPATCH(_fused_sdp_choice_stub, &plain_attention)
}

namespace {

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&through_cpu>());
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", &empty);
  m.impl("empty_strided", &empty_strided);
  m.impl("as_strided", &as_strided);
  m.impl("view", &view);
  m.impl("_reshape_alias", &reshape_alias);
  m.impl("view.dtype", &view_dtype);
  m.impl("unfold", &unfold);
  m.impl("histc", &histc);
  m.impl("resize_", &resize);
  m.impl("set_.source_Storage_storage_offset", &set_storage);
  m.impl("set_.source_Storage", &set_bytes);
  m.impl("set_.source_Tensor", &set_tensor);
  m.impl("_copy_from", &copy_from);
  m.impl("_copy_from_and_resize", &copy_from_and_resize);
}

TORCH_LIBRARY_IMPL(_, AutocastPrivateUse1, m) { m.fallback(torch::CppFunction::makeFallthrough()); }

#define LOWER(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, lower_precision_fp)
#define HIGHER(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, fp32)

TORCH_LIBRARY_IMPL(aten, AutocastPrivateUse1, m) {
  LOWER(linear)
  LOWER(matmul)
  LOWER(mm)
  LOWER(bmm)
  LOWER(addmm)
  LOWER(baddbmm)
  LOWER(scaled_dot_product_attention)
  HIGHER(logsumexp)
  HIGHER(cross_entropy_loss)
  HIGHER(nll_loss)
}

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  static Hooks hooks;
  at::RegisterPrivateUse1HooksInterface(&hooks);
  c10::SetAllocator(c10::DeviceType::PrivateUse1, &memory);
  m.def("present", [](bool value) { present = value; });
  m.def("is_present", [] { return present; });
  m.def("current", [] { return static_cast<int>(current); });
  m.def("use", [](int index) { current = static_cast<c10::DeviceIndex>(index); });
  m.def("held", [](int index) { return held.at(index); });
  m.def("seed", [](int index, uint64_t seed) { generator(static_cast<c10::DeviceIndex>(index)).set_current_seed(seed); });
  m.def("get_state", [](int index) { return generator(static_cast<c10::DeviceIndex>(index)).get_state(); });
  m.def("set_state", [](int index, const at::Tensor& state) {
    generator(static_cast<c10::DeviceIndex>(index)).set_state(state);
  });
}
