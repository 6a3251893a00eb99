"""The CUDA functions that are recorded where not every call is: rare, and slow when they happen. Standard library only.

In the contract because both recorders need it: the library that records with CUPTI, and the collector, which probes the
driver of a process that runs already.
"""

from __future__ import annotations

# By the beginning of their names, of the driver (cu...) and of the runtime (cuda...). Launches are not among them; a
# graph's launch is, since one of them stands for hundreds of kernels.
RARE_FUNCTIONS = (
    "cuInit", "cuDevicePrimaryCtxRetain", "cuCtxCreate", "cuCtxSynchronize", "cuStreamSynchronize",
    "cuEventSynchronize", "cuLibraryLoad", "cuLibraryGetModule", "cuModuleLoad", "cuModuleGetFunction", "cuLink",
    "cuMemAlloc", "cuMemFree", "cuMemHostAlloc", "cuMemHostRegister", "cuMemHostUnregister", "cuMemCreate",
    "cuMemMap", "cuMemUnmap", "cuMemSetAccess", "cuMemAddressReserve", "cuMemcpy", "cuGraphInstantiate",
    "cuGraphLaunch", "cuGraphExecUpdate", "cuGraphExecDestroy", "cuStreamBeginCapture", "cuStreamEndCapture",
    "cudaGetDeviceCount", "cudaDeviceSynchronize", "cudaLibraryLoad", "cudaHostAlloc", "cudaHostRegister",
    "cudaMalloc", "cudaFree", "cudaMemGetInfo", "cudaFuncGetAttributes", "cudaStreamSynchronize",
    "cudaEventSynchronize", "cudaMemcpy", "cudaGraphInstantiate", "cudaGraphLaunch", "cudaStreamBeginCapture",
    "cudaStreamEndCapture",
)  # fmt: skip
RARE_DRIVER_FUNCTIONS = tuple(name for name in RARE_FUNCTIONS if not name.startswith("cuda"))
