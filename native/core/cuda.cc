#include "core/cuda.h"

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <string>

#if defined(_WIN32)
#include <windows.h>
#else
#include <dlfcn.h>
#endif

// Since glibc 2.34 these functions live in another library under a new version, which older systems don't have. The old
// version is in both.
#if defined(__GLIBC__) && defined(__x86_64__)
#define LOWBIT_OLD_VERSION "GLIBC_2.2.5"
#elif defined(__GLIBC__) && defined(__aarch64__)
#define LOWBIT_OLD_VERSION "GLIBC_2.17"
#endif
#if defined(LOWBIT_OLD_VERSION)
__asm__(".symver dladdr, dladdr@" LOWBIT_OLD_VERSION);
__asm__(".symver dlerror, dlerror@" LOWBIT_OLD_VERSION);
__asm__(".symver dlopen, dlopen@" LOWBIT_OLD_VERSION);
__asm__(".symver dlsym, dlsym@" LOWBIT_OLD_VERSION);
#endif

namespace lowbit {
namespace {

#if defined(_WIN32)
constexpr char kFileName[] = "lowbit_cuda.dll";
constexpr char kSeparators[] = "/\\";
#else
constexpr char kFileName[] = "lowbit_cuda.so";
constexpr char kSeparators[] = "/";
#endif

void explain(CudaModule& module, const char* pattern, ...) {
  va_list arguments;
  va_start(arguments, pattern);
  std::vsnprintf(module.reason, sizeof module.reason, pattern, arguments);
  va_end(arguments);
}

// The file that this code was loaded from, or an empty path.
std::string own_path() {
#if defined(_WIN32)
  HMODULE self = nullptr;
  char path[MAX_PATH] = "";
  if (GetModuleHandleExA(GET_MODULE_HANDLE_EX_FLAG_FROM_ADDRESS | GET_MODULE_HANDLE_EX_FLAG_UNCHANGED_REFCOUNT,
                         reinterpret_cast<const char*>(&cuda_module), &self) == 0 ||
      GetModuleFileNameA(self, path, sizeof path) == 0) {
    return {};
  }
  return path;
#else
  Dl_info info{};
  if (dladdr(reinterpret_cast<const void*>(&cuda_module), &info) == 0 || info.dli_fname == nullptr) return {};
  return info.dli_fname;
#endif
}

std::string module_path() {
  const char* named = std::getenv("LOWBIT_CUDA_MODULE");
  if (named != nullptr && named[0] != '\0') return named;
  std::string path = own_path();
  path.erase(path.find_last_of(kSeparators) + 1);  // npos + 1 is 0
  return path + kFileName;
}

bool exists(const std::string& path) {
  std::FILE* file = std::fopen(path.c_str(), "rb");
  if (file != nullptr) std::fclose(file);
  return file != nullptr;
}

CudaEntry open_entry(const std::string& path, CudaModule& module) {
#if defined(_WIN32)
  const HMODULE library = LoadLibraryA(path.c_str());
  if (library == nullptr) {
    explain(module, "The CUDA module %s could not be loaded (error %lu).", path.c_str(), GetLastError());
    return nullptr;
  }
  auto* entry = reinterpret_cast<void*>(GetProcAddress(library, kCudaEntry));
#else
  // Never closed: threads may be in it until the process ends.
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    explain(module, "The CUDA module could not be loaded: %s.", dlerror());
    return nullptr;
  }
  void* entry = dlsym(library, kCudaEntry);
#endif
  if (entry == nullptr) explain(module, "%s is not lowbit's CUDA module.", path.c_str());
  return reinterpret_cast<CudaEntry>(entry);
}

CudaModule open_module() {
  CudaModule module;
  const std::string path = module_path();
  if (!exists(path)) {
    explain(module, "This build has no CUDA module (%s does not exist): build it with LOWBIT_CUDA=ON and CUDA's nvcc.",
            path.c_str());
    return module;
  }
  const CudaEntry entry = open_entry(path, module);
  if (entry == nullptr) return module;
  const CudaApi* api = entry(kCudaAbi);
  if (api == nullptr) {
    explain(module, "The CUDA module %s belongs to another version of lowbit.", path.c_str());
    return module;
  }
  const CudaStatus status = api->device_count(&module.devices);
  if (status != CudaStatus::kOk) {
    explain(module, "CUDA has no device to use: %s.", api->last_error());
  } else if (module.devices == 0) {
    explain(module, "CUDA has no device to use.");
  } else {
    module.api = api;
  }
  return module;
}

}  // namespace

const CudaModule& cuda_module() {
  static const CudaModule module = open_module();
  return module;
}

}  // namespace lowbit
