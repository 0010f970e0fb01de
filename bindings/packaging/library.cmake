# How the library's objects and archives are made; included by the top-level CMakeLists.txt.

set(NVMX_WARNINGS -Wall -Wextra -Wconversion -Wshadow -Wmissing-prototypes -Wvla)
if(NVMX_WERROR)
    list(APPEND NVMX_WARNINGS -Werror)
endif()
set(NVMX_SANITIZERS -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer)
set(NVMX_FREESTANDING_FLAGS
    -ffreestanding -mgeneral-regs-only -mno-red-zone -fno-pic -fno-pie -fno-stack-protector
    -fno-asynchronous-unwind-tables -fcf-protection=none)

# Where the public headers are, in the source tree and when installed.
function(nvmx_public_headers target)
    target_include_directories(${target} INTERFACE
        $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include>
        $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
endfunction()

# What users of a hosted library get with it.
function(nvmx_hosted_interface target)
    if(have_zydis)
        target_compile_definitions(${target} INTERFACE NVMX_HAVE_ZYDIS=1)
        target_link_libraries(${target} PRIVATE Zydis::Zydis)
    endif()
    if(NVMX_SANITIZE)
        target_link_options(${target} INTERFACE ${NVMX_SANITIZERS})
    endif()
endfunction()

# An object library of all of lib/. HOSTED: with the optional parts; FREESTANDING: for kernels, general registers only.
function(nvmx_add_objects target kind)
    add_library(${target} OBJECT ${library_sources})
    set_target_properties(${target} PROPERTIES C_STANDARD 11 C_STANDARD_REQUIRED ON C_EXTENSIONS OFF)
    set_target_properties(${target} PROPERTIES C_VISIBILITY_PRESET hidden INTERPROCEDURAL_OPTIMIZATION OFF)
    target_include_directories(${target} PRIVATE ${PROJECT_SOURCE_DIR}/include ${PROJECT_SOURCE_DIR}/lib)
    # With NVMX_SHARED the public functions stay visible and all others are hidden.
    target_compile_definitions(${target} PRIVATE NVMX_SHARED)
    # No LTO, also where the flags ask for it (those of distributions do): in its objects no symbol can be made local, see nvmx_add_archive.
    target_compile_options(${target} PRIVATE ${NVMX_WARNINGS} -ffunction-sections -fdata-sections -fno-lto)
    # At -O0 gcc keeps functions of xxHash that nothing calls, and they need malloc; and it warns, by a warning without a name, that it unrolls no loop.
    target_compile_options(${target} PRIVATE $<$<AND:$<C_COMPILER_ID:GNU>,$<CONFIG:Debug>>:-Og>)
    if(XXHASH_INCLUDE_DIR)
        target_compile_definitions(${target} PRIVATE NVMX_HAVE_XXHASH=1)
        target_include_directories(${target} PRIVATE ${XXHASH_INCLUDE_DIR})
    endif()
    if(kind STREQUAL "FREESTANDING")
        target_compile_options(${target} PRIVATE ${NVMX_FREESTANDING_FLAGS} -fno-sanitize=all)
        return()
    endif()
    set_target_properties(${target} PROPERTIES POSITION_INDEPENDENT_CODE ON)
    if(NVMX_SANITIZE OR kind STREQUAL "SANITIZED")
        target_compile_options(${target} PRIVATE ${NVMX_SANITIZERS})
    endif()
    if(have_zydis)
        target_sources(${target} PRIVATE ${zydis_sources})
        target_compile_definitions(${target} PRIVATE NVMX_HAVE_ZYDIS=1)
        target_include_directories(${target} PRIVATE $<TARGET_PROPERTY:Zydis::Zydis,INTERFACE_INCLUDE_DIRECTORIES>)
    endif()
endfunction()

# A static library in which only the public functions are global: the objects are linked into one and hidden symbols become local, so that an
# internal name of the library can't meet one of its user's.
function(nvmx_add_archive target objects export_name)
    set(all ${CMAKE_CURRENT_BINARY_DIR}/${target}.o)
    add_custom_command(
        OUTPUT ${all}
        COMMAND ${CMAKE_LINKER} -r -o ${all} $<TARGET_OBJECTS:${objects}>
        COMMAND ${CMAKE_OBJCOPY} --localize-hidden ${all}
        DEPENDS $<TARGET_OBJECTS:${objects}>
        COMMAND_EXPAND_LISTS VERBATIM)
    add_library(${target} STATIC ${all})
    # Make, unlike Ninja, knows no rule for another target's objects.
    add_dependencies(${target} ${objects})
    set_source_files_properties(${all} PROPERTIES EXTERNAL_OBJECT ON GENERATED ON)
    set_target_properties(${target} PROPERTIES LINKER_LANGUAGE C EXPORT_NAME ${export_name})
    nvmx_public_headers(${target})
endfunction()
