// Arrays whose allocation may fail without an exception: the C interface must not throw.
#ifndef GRAPHWRIGHT_HARS_MEMORY_H
#define GRAPHWRIGHT_HARS_MEMORY_H

#include <stdint.h>

#include <memory>
#include <new>

namespace hars {

template <class T>
using Array = std::unique_ptr<T[]>;

// Null if there is no memory. Plain numbers are left as they come.
template <class T>
Array<T> allocate(int64_t count) {
  return Array<T>(new (std::nothrow) T[size_t(count)]);
}

}  // namespace hars

#endif
