"""mlx-lm's own server on the BLAS that LMX uses. Arguments are the server's."""

from appliance.engine.process import load_openblas

load_openblas()

from mlx_lm.server import main  # noqa: E402  MLX binds its BLAS symbols when it is first imported

if __name__ == "__main__":
    main()
