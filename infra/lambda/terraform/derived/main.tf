locals {
  # Bucket and prefix of each, and nothing of those that are in the image.
  places = [
    for url in values(var.models) : {
      bucket = split("/", url)[2]
      prefix = trim(join("/", slice(split("/", url), 3, length(split("/", url)))), "/")
    } if startswith(url, "s3://")
  ]
  prefixes = {
    for bucket in distinct([for place in local.places : place.bucket]) :
    bucket => distinct([for place in local.places : place.prefix if place.bucket == bucket])
  }

  # What says which models there are, and not merely how to serve the one.
  models_given = anytrue([
    for names in [["CONFIG"], ["CONFIG_FILE"], ["NAME", "PATH"]] :
    alltrue([for name in names : contains(keys(var.environment_variables), "DECANT_MODEL_${name}")])
  ])
  own = (
    var.model_config_file != "" ? { DECANT_MODEL_CONFIG_FILE = var.model_config_file } :
    local.models_given ? {} :
    length(var.models) == 1 ? {
      DECANT_MODEL_NAME = keys(var.models)[0]
      DECANT_MODEL_PATH = trimsuffix(values(var.models)[0], "/")
    } :
    {
      DECANT_MODEL_CONFIG = jsonencode({
        model_config_list = [for name, url in var.models : { config = { name = name, base_path = trimsuffix(url, "/") } }]
      })
    }
  )
  environment = tomap(merge({ DECANT_LOG_LEVEL = "INFO" }, local.own, var.environment_variables))
}
