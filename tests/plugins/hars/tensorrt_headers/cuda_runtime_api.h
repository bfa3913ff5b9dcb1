// The one name of CUDA's that the plugin interface uses, for machines without the toolkit.
#pragma once

typedef struct CUstream_st *cudaStream_t;
